/*
 * launch - which rank of how many this process is, by what started it: torchrun or scripts/launch.sh (RANK, WORLD_SIZE), srun
 * (SLURM_PROCID, SLURM_STEP_NUM_TASKS), mpirun (OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE; PMI_RANK, PMI_SIZE). They meet at
 * MASTER_ADDR:MASTER_PORT. With Slurm that is the step's first host and a port by the job's number, unless the environment
 * says otherwise; without, MASTER_ADDR may be left away where all are on one machine.
 */
#pragma once

#include "run/config.h"

/* Waits until all ranks are there with the same configuration, model and data; then lm/ranks.h holds. Others than rank 0 say
 * what they have to say in OUT/rank-N.log. Alone: nothing happens. */
enum nla_status nla_launch(const struct nla_config *cfg, enum nla_command command, struct nla_err *err);
/* After the work: waits for the others, or ends them where this one failed. true: this process is the one to say `err`. */
bool nla_launch_end(const struct nla_err *err);
/* Of this run on this machine. */
int64_t nla_launch_here(void);
