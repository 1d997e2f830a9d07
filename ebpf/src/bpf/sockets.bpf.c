// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* sockets: the pass over all open files that `tcpsummary` and `fd` tell of. */
#define VISIT_FLOW(pass, sk, tp, key, peer) ((void)(peer))

#include "socket_pass.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";
