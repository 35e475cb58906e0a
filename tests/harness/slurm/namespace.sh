# The first process of a cluster: its end ends all. $1 is the root, $2 the file that says it is ready.
set -e
mount -t proc proc "$1/proc"
mount -t tmpfs tmpfs "$1/run"
mkdir "$1/run/slurmctld" "$1/run/slurmdbd"
chroot "$1" chown slurm:slurm /run/slurmctld /run/slurmdbd
: >"$2"
# Orphans of the namespace become its children, and waiting reaps them.
sleep infinity &
wait
