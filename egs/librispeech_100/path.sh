# Read by slurm.pl, queue.pl and similar scripts on the node of a job before it starts: put
# your cluster's set-up here, such as `module load cuda`. Our own runner does not read it,
# and nothing here is needed without a cluster.
