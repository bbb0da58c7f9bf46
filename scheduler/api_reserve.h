/* api_reserve.h - reservations and maintenance windows. */
#pragma once

struct api_call;

void api_reserve_list(struct api_call *call);
void api_reserve_set(struct api_call *call);
void api_reserve_remove(struct api_call *call);
