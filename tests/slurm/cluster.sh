#!/usr/bin/env bash
# A real SLURM of one node on this machine: `cluster.sh start FOLDER`, `cluster.sh stop FOLDER`.
# Needs root and Debian's packages slurm-wlm and munge (`cluster.sh install` fetches them).
# After start, FOLDER/env holds the settings that sbatch and the tests need: `source FOLDER/env`.
set -euo pipefail

install() {
    if [ "$(id -u)" != 0 ]; then
        echo "a SLURM of our own needs root: run this as root on Debian, or leave the SLURM tests out" >&2
        exit 1
    fi
    if ! command -v slurmctld >/dev/null || ! command -v munged >/dev/null; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurm-wlm munge >/dev/null
    fi
}

start_munge() {
    if munge -n 2>/dev/null | unmunge >/dev/null 2>&1; then
        return
    fi
    mkdir -p /run/munge /var/log/munge /var/lib/munge
    chown -R munge: /run/munge /var/log/munge /var/lib/munge /etc/munge
    chmod 0755 /run/munge
    if [ ! -s /etc/munge/munge.key ]; then
        head -c 1024 /dev/urandom >/etc/munge/munge.key
        chown munge: /etc/munge/munge.key
        chmod 0400 /etc/munge/munge.key
    fi
    runuser -u munge -- munged --force
    for _ in $(seq 50); do
        munge -n 2>/dev/null | unmunge >/dev/null 2>&1 && return
        sleep 0.2
    done
    echo "munged does not answer" >&2
    return 1
}

configure() {
    local folder=$1 host memory
    host=$(hostname -s)
    memory=$(($(awk '/^MemTotal/ {print $2}' /proc/meminfo) / 1024 * 8 / 10))
    mkdir -p "$folder/state" "$folder/spool"
    cat >"$folder/slurm.conf" <<CONF
ClusterName=ablate
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${SLURM_TEST_PORT:-16817}
SlurmdPort=$((${SLURM_TEST_PORT:-16817} + 1))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# also how long a requeued job waits before it may start again
AuthInfo=cred_expire=10
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
MaxArraySize=${SLURM_TEST_MAX_ARRAY:-1001}
KillWait=5
MinJobAge=20
InactiveLimit=0
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE OverTimeLimit=0 State=UP
CONF
    printf 'export SLURM_CONF=%q\n' "$folder/slurm.conf" >"$folder/env"
}

start_controller() {
    SLURM_CONF=$1/slurm.conf slurmctld
}

await_node() {
    export SLURM_CONF=$1/slurm.conf
    for _ in $(seq 100); do
        [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ] && return
        sleep 0.2
    done
    echo "the node is not idle:" >&2
    sinfo >&2 || true
    tail -n 20 "$1/slurmctld.log" "$1/slurmd.log" >&2 || true
    return 1
}

stop_daemon() {
    local file=$1/$2.pid pid
    [ -s "$file" ] || return 0
    pid=$(cat "$file")
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 50); do
        kill -0 "$pid" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -9 "$pid" 2>/dev/null || true
}

case "${1:-}" in
install)
    install
    ;;
start)
    install
    start_munge
    configure "$2"
    start_controller "$2"
    SLURM_CONF=$2/slurm.conf slurmd
    await_node "$2"
    ;;
start-controller) # after stop-controller: queue and jobs are read back from disk
    start_controller "$2"
    ;;
stop-controller)
    stop_daemon "$2" slurmctld
    ;;
stop)
    SLURM_CONF=$2/slurm.conf scancel --quiet --user="$(id -un)" 2>/dev/null || true
    sleep 0.5
    stop_daemon "$2" slurmctld
    stop_daemon "$2" slurmd
    ;;
*)
    echo "usage: cluster.sh install | start|stop|stop-controller|start-controller FOLDER" >&2
    exit 2
    ;;
esac
