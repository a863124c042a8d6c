# Read by slurm.pl, queue.pl and their like on the node that a job runs on, before it
# starts: the place for what your cluster wants, such as `module load cuda`. Our own
# runner does not read it, and nothing here is needed without a cluster.
