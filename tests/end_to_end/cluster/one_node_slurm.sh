#!/usr/bin/env bash
# A real Slurm of one node on this machine, with two stand-in GPUs, for tests. Needs root and Debian.
#   one_node_slurm.sh install        Debian's packages, where they are missing
#   one_node_slurm.sh start FOLDER   write FOLDER/slurm.conf, start the daemons, wait until the
#                                    node takes jobs
#   one_node_slurm.sh stop FOLDER    stop the daemons that start started, and their jobs
# Slurm's commands find it by a variable: SLURM_CONF=FOLDER/slurm.conf squeue.
# There is no accounting: sacct prints nothing.
set -euo pipefail

folder=${2:-}
conf=$folder/slurm.conf
host=$(hostname -s)

install() {
  command -v slurmctld >/dev/null && return
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurm-wlm munge >/dev/null
}

configure() {
  mkdir -p "$folder/state" "$folder/spool"
  # Four CPUs, whatever the machine has, so that the GPUs are the limit. The scheduler does not wait
  # its usual half minute, and soon forgets jobs that ended, as on a busy cluster.
  cat >"$conf" <<CONF
ClusterName=one
SlurmctldHost=$host
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=bf_interval=1,sched_interval=2
KillWait=5
MinJobAge=4
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=$host CPUs=4 RealMemory=$(free -m | awk '/Mem:/ {print int($2 / 2)}') Gres=gpu:2
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
  printf "NodeName=$host Name=gpu File=%s\n" /dev/null /dev/zero >"$folder/gres.conf"
}

start() {
  configure
  if ! pgrep -x munged >/dev/null; then
    mkdir -p /run/munge
    chown munge: /run/munge
    su -s /bin/sh munge -c munged
    touch "$folder/started_munge"
  fi
  slurmctld -f "$conf"
  slurmd -f "$conf"
  for _ in $(seq 60); do
    SLURM_CONF=$conf sinfo --noheader --format=%t 2>/dev/null | grep -qx idle && return
    sleep 0.5
  done
  echo "the node takes no jobs:" >&2
  tail -n 20 "$folder"/slurm*.log >&2
  return 1
}

stop() {
  SLURM_CONF=$conf scancel --user=root 2>/dev/null || true
  for daemon in slurmd slurmctld; do
    if [ -f "$folder/$daemon.pid" ]; then kill "$(cat "$folder/$daemon.pid")" || true; fi
  done
  if [ -f "$folder/started_munge" ]; then su -s /bin/sh munge -c "munged --stop" || true; fi
}

case $1 in
install | start | stop) "$1" ;;
*) echo "usage: $0 install | start FOLDER | stop FOLDER" >&2 && exit 2 ;;
esac
