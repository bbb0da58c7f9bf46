/* api_accounts.h - users, their tokens and quotas, and who am I. */
#pragma once

struct api_call;

void api_accounts_whoami(struct api_call *call);
void api_accounts_users(struct api_call *call);
void api_accounts_set_user(struct api_call *call);
void api_accounts_quotas(struct api_call *call);
void api_accounts_set_quota(struct api_call *call);
void api_accounts_tokens(struct api_call *call);
void api_accounts_make_token(struct api_call *call);
void api_accounts_revoke_token(struct api_call *call);
