/* api_nodes.h - nodes, groups, zones, and the scheduler itself. */
#pragma once

struct api_call;

void api_nodes_list(struct api_call *call);
void api_nodes_one(struct api_call *call);
void api_nodes_drain(struct api_call *call);
void api_nodes_undrain(struct api_call *call);
void api_nodes_fenced(struct api_call *call);
void api_nodes_groups(struct api_call *call);
void api_nodes_zones(struct api_call *call);
void api_nodes_healthz(struct api_call *call);
void api_nodes_state(struct api_call *call);
