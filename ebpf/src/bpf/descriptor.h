/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Open files as the descriptors of processes: what kind each is, whose, and how near the limit they are. */
#ifndef JITTERSCOPE_DESCRIPTOR_H
#define JITTERSCOPE_DESCRIPTOR_H

#include "kernel.h"
#include "abi.h"
#include "entity.h"
#include "pass.h"

/* include/uapi/linux/stat.h, include/linux/fs.h, include/asm-generic/resource.h */
#define S_IFMT	      0170000
#define S_IFSOCK      0140000
#define S_IFIFO	      0010000
#define SB_NOUSER     (1UL << 31)
#define RLIMIT_NOFILE 7

/* Those of entities that have no process any more stay until user space removes them. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct entity);
	__type(value, struct descriptor_sums);
} descriptors SEC(".maps");

/* Tables of descriptors that several tasks share, with the pass that last saw them. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, u64);
} tables SEC(".maps");

/* True for the epoll instance among the anonymous inodes: the name is all that tells. */
static __always_inline int is_epoll(struct file *file)
{
	char name[12] = {};

	bpf_probe_read_kernel_str(name, sizeof(name), file->f_path.dentry->d_name.name);
	return !__builtin_memcmp(name, "[eventpoll]", sizeof(name));
}

/* A socket by its mode may also be a name in a file system that was opened with O_PATH. */
static __always_inline enum descriptor_kind kind_of(struct file *file)
{
	struct inode *inode = file->f_inode;
	u32 type = inode->i_mode & S_IFMT;

	if (type == S_IFSOCK && file->private_data)
		return DESCRIPTOR_SOCKET;
	if (type == S_IFIFO)
		return DESCRIPTOR_PIPE;
	if (!(inode->i_sb->s_flags & SB_NOUSER))
		return DESCRIPTOR_FILE;
	return is_epoll(file) ? DESCRIPTOR_EPOLL : DESCRIPTOR_OTHER;
}

static __always_inline void add_descriptors(struct pass *pass, const struct walk *walk)
{
	struct descriptor_sums zero = {}, *sums = bpf_map_lookup_elem(&descriptors, &walk->entity);
	u64 open = 0;
	int i;

	if (!sums) {
		bpf_map_update_elem(&descriptors, &walk->entity, &zero, BPF_NOEXIST);
		sums = bpf_map_lookup_elem(&descriptors, &walk->entity);
	}
	if (!sums) {
		pass->unattributed++;
		return;
	}
	if (sums->pass != pass->number)
		*sums = (struct descriptor_sums){.pass = pass->number};
	for (i = 0; i < DESCRIPTOR_KINDS; i++) {
		sums->open[i] += walk->open[i];
		open += walk->open[i];
	}
	/* open / limit > fullest_open / fullest_limit, in whole numbers */
	if (walk->limit &&
	    (!sums->fullest_limit || open * sums->fullest_limit > sums->fullest_open * walk->limit)) {
		sums->fullest_open = open;
		sums->fullest_limit = walk->limit;
	}
}

/*
 * True when another task with the same table has been visited. The iterator leaves out threads that share
 * their leader's; what remains are processes made with CLONE_FILES, and the threads of a leader that has
 * ended.
 */
static __always_inline int is_table_seen(struct pass *pass, struct task_struct *task)
{
	struct files_struct *files = task->files;
	u64 key = (u64)files;

	if (task->group_leader == task && files->count.counter <= task->signal->nr_threads)
		return 0;
	return is_marked(&tables, key, pass);
}

static __always_inline void enter_task(struct pass *pass, struct walk *walk, struct task_struct *task)
{
	struct net *net = task->nsproxy->net_ns;

	__builtin_memset(walk, 0, sizeof(*walk));
	walk->task = (u64)task;
	walk->skip = is_table_seen(pass, task);
	walk->limit = task->signal->rlim[RLIMIT_NOFILE].rlim_cur;
	walk->entity.netns = net_inode(net);
	walk->entity.netns_cookie = net_cookie(net);
	walk->entity.cgroup = task->cgroups->dfl_cgrp->kn->id;
}

static __always_inline void leave_task(struct pass *pass, struct walk *walk)
{
	if (walk->task && !walk->skip)
		add_descriptors(pass, walk);
	walk->task = 0;
}

#endif
