"""A SLURM cluster of one machine, for a test: Debian's packages, root, no systemd, no accounting."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

CONFIGURATION = Path("/etc/slurm/slurm.conf")
"""Snakemake's plugin drops SLURM_* variables, so SLURM_CONF would not be seen."""

TEXT = """\
# written by a test of the study
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=3600
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=8000 State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def run(*command: str, timeout: float = 30.0) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=timeout).stdout


def install() -> None:
    """slurm-wlm and munge from Debian, unless they are there."""
    if shutil.which("slurmctld") and shutil.which("munged"):
        return
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=True, env=environment)
    packages = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "slurm-wlm", "munge"]
    subprocess.run(packages, check=True, env=environment, stdout=subprocess.DEVNULL)


class Cluster:
    """The running cluster; a context manager. An own slurm.conf of the machine is never replaced."""

    def __init__(self, folder: Path):
        self.folder, self.processes = folder, []

    def __enter__(self):
        if CONFIGURATION.exists() and not CONFIGURATION.read_text().startswith(TEXT.split("\n")[0]):
            raise RuntimeError(f"{CONFIGURATION} is somebody's own; this test is for a machine without a SLURM")
        install()
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True)
        CONFIGURATION.parent.mkdir(exist_ok=True)
        CONFIGURATION.write_text(TEXT.format(host=socket.gethostname().split(".")[0], folder=self.folder))
        run("install", "-d", "-o", "munge", "-g", "munge", "-m", "755", "/run/munge")
        if (
            not Path("/run/munge/munge.socket.2").exists()
            or subprocess.run(["munge", "-n"], capture_output=True).returncode
        ):
            self._start("runuser", "-u", "munge", "--", "munged", "--foreground", "--force")
        self._start("slurmctld", "-D")
        self._start("slurmd", "-D")
        for _ in range(60):
            time.sleep(0.5)
            if (
                "idle"
                in subprocess.run(["timeout", "5", "sinfo", "-h", "-o", "%T"], capture_output=True, text=True).stdout
            ):
                return self
        self.__exit__()
        raise RuntimeError(f"the cluster did not start: see the logs in {self.folder}")

    def _start(self, *command: str) -> None:
        log = open(self.folder / f"{command[-2] if command[0] == 'runuser' else command[0]}.out", "w")
        self.processes.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True))

    def jobs(self) -> list[tuple[str, str]]:
        """(id, state) of the jobs that are queued or running."""
        listed = run("squeue", "-h", "-o", "%i %T")
        return [tuple(line.split()) for line in listed.splitlines()]

    def __exit__(self, *_):
        subprocess.run(["timeout", "10", "scancel", "--user", "root"], capture_output=True)
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        CONFIGURATION.unlink(missing_ok=True)
