"""The files of docs/deploy: the Slurm script runs with stand-ins for Slurm, the JobSet is checked by its schema."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from ddpm_jax.runtime import Exit

DEPLOY = Path(__file__).resolve().parents[1] / "docs" / "deploy"
FINAL = {Exit.BAD_INPUT, Exit.BUSY, Exit.DIVERGED}  # another try would end the same way
AGAIN = {Exit.BUG, Exit.STORAGE, Exit.STOPPED, Exit.LOST}
CRASHES = (Exit.BUG, Exit.STORAGE, Exit.LOST, 134, 137, 139)

# Runs the command once a task, hands SIGUSR1 on to all their processes, and returns the highest code, as srun does.
SRUN = """
import os, signal, subprocess, sys
words = sys.argv[1:]
command = words[words.index("bash"):]
tasks = []
signal.signal(signal.SIGUSR1, lambda *_: [os.killpg(task.pid, signal.SIGUSR1) for task in tasks])
tasks += [
    subprocess.Popen(command, env={**os.environ, "SLURM_PROCID": str(i)}, start_new_session=True)
    for i in range(int(os.environ["SLURM_NTASKS"]))
]
codes = [task.wait() for task in tasks]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""
# The run: the code that its task has in CODES, or 75 once it is signalled.
PYTHON = """#!/bin/bash
echo "$JAX_LOCAL_DEVICE_IDS $*" >>called
codes=($CODES)
code=${codes[$SLURM_PROCID]}
[[ $code == wait ]] || exit "$code"
trap 'exit 75' USR1
echo $$ >"new$SLURM_PROCID" && mv "new$SLURM_PROCID" "waiting$SLURM_PROCID"
while :; do sleep 1; done
"""
SCONTROL = '#!/bin/bash\necho "$*" >>requeued\n'
SLEEP = "#!/bin/bash\nread -rt 0.03 <> <(:)\n"  # a short one


@pytest.fixture
def batch(tmp_path):
    """Start slurm.sh as Slurm would; `codes` are those with which its tasks' runs end."""
    programs = {"srun": f"#!{sys.executable}{SRUN}", "python": PYTHON, "scontrol": SCONTROL, "sleep": SLEEP}
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)

    def start(*codes, **env):
        env = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": str(len(codes)), "WORKDIR": str(tmp_path / "run"), **env}
        env |= {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "CODES": " ".join(map(str, codes))}
        words = ["bash", str(DEPLOY / "slurm.sh"), "--config=punks_cfg", "--config.train.steps=5"]
        return subprocess.Popen(words, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


def ended(job, tmp_path):
    """Return (exit code, whether the job was queued again), once a job has ended."""
    _, said = job.communicate(timeout=30)
    queued = (tmp_path / "requeued").read_text() if (tmp_path / "requeued").exists() else ""
    assert queued in ("", "requeue 7\n"), said
    return job.returncode, bool(queued)


def test_the_shell_script_is_clean():
    shellcheck = shutil.which("shellcheck", path=os.path.dirname(sys.executable))
    done = subprocess.run([shellcheck, DEPLOY / "slurm.sh"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_exit_code_has_a_rule():
    assert {Exit.DONE, *FINAL, *AGAIN} == set(Exit)


@pytest.mark.parametrize("code", [*Exit, *CRASHES[3:]])
def test_slurm_queues_the_job_again_where_another_start_may_help(batch, tmp_path, code):
    assert ended(batch(int(code)), tmp_path) == (code, code not in {Exit.DONE, *FINAL})
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["slurm-7.saved"] * (code == Exit.STOPPED)


def test_the_run_gets_the_arguments_the_workdir_and_the_gpus_of_its_node(batch, tmp_path):
    ended(batch(0, SLURM_GPUS_ON_NODE="4"), tmp_path)
    words = "0,1,2,3 -m ddpm_jax.main --distributed=auto --workdir={} --config=punks_cfg --config.train.steps=5\n"
    assert (tmp_path / "called").read_text() == words.format(tmp_path / "run")


def test_without_a_workdir_nothing_starts(batch, tmp_path):
    assert ended(batch(0, WORKDIR=""), tmp_path) == (Exit.BAD_INPUT, False)
    assert not (tmp_path / "called").exists()


def test_a_workdir_that_cannot_be_made_is_left_to_the_run_to_explain(batch, tmp_path):
    (tmp_path / "file").touch()
    assert ended(batch(int(Exit.STORAGE), WORKDIR=str(tmp_path / "file" / "run")), tmp_path) == (Exit.STORAGE, True)


@pytest.mark.parametrize("code", CRASHES)
def test_slurm_gives_up_after_three_tries_in_a_row(batch, tmp_path, code):
    assert ended(batch(int(code), SLURM_RESTART_COUNT="3"), tmp_path) == (code, False)


def test_slurm_counts_anew_after_a_stop_that_was_saved(batch, tmp_path):
    assert ended(batch(int(Exit.STOPPED), SLURM_RESTART_COUNT="8"), tmp_path) == (Exit.STOPPED, True)
    for count, again in (("9", True), ("11", True), ("12", False)):
        (tmp_path / "requeued").unlink(missing_ok=True)
        assert ended(batch(137, SLURM_RESTART_COUNT=count), tmp_path) == (137, again)


@pytest.mark.parametrize("code", sorted(FINAL))
def test_the_cause_counts_and_not_the_deaths_that_follow_from_it(batch, tmp_path, code):
    assert ended(batch(137, int(code), int(Exit.STOPPED)), tmp_path) == (code, False)


def test_who_lost_a_crashed_process_does_not_hide_the_crash(batch, tmp_path):
    job = batch(int(Exit.LOST), int(Exit.BUG), SLURM_RESTART_COUNT="3")
    assert ended(job, tmp_path) == (Exit.BUG, False)


def test_the_signal_before_the_time_limit_reaches_every_process_and_the_job_is_queued_again(batch, tmp_path):
    job = batch("wait", "wait", SLURM_RESTART_COUNT="3")
    until(lambda: (tmp_path / "waiting0").exists() and (tmp_path / "waiting1").exists())
    job.send_signal(signal.SIGUSR1)
    assert ended(job, tmp_path) == (Exit.STOPPED, True)


def test_a_cancelled_job_is_not_queued_again(batch, tmp_path):
    job = batch("wait")
    until((tmp_path / "waiting0").exists)
    job.send_signal(signal.SIGTERM)
    os.kill(int((tmp_path / "waiting0").read_text()), signal.SIGUSR1)  # Slurm signals the tasks itself
    assert ended(job, tmp_path) == (Exit.STOPPED, False)


def until(true, seconds=20.0):
    """Wait for something that another process does."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def jobset():
    return yaml.safe_load((DEPLOY / "jobset.yaml").read_text())


def test_the_job_inside_the_jobset_is_one_of_kubernetes(jobset):
    import kubernetes_validate

    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, **replicated["template"]}
    kubernetes_validate.validate(job, "1.31", strict=True)
    job["spec"] = {**job["spec"], "backofLimit": 0}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, "1.31", strict=True)


def test_the_jobset_starts_again_all_or_nothing_and_never_after_final_codes(jobset):
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["operator"] == "In"
    assert set(rule["onExitCodes"]["values"]) == FINAL
    assert (job["backoffLimit"], job["template"]["spec"]["restartPolicy"]) == (0, "Never")
    policy = jobset["spec"]["failurePolicy"]
    (final,) = policy["rules"]
    assert (final["action"], final["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert policy["maxRestarts"] > 0 and policy["restartStrategy"] == "BlockingRecreate"


def test_every_pod_of_the_jobset_is_told_the_same_first_pod_and_its_own_number(jobset):
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job, name = replicated["template"]["spec"], jobset["metadata"]["name"]
    (container,) = job["template"]["spec"]["containers"]
    pods = job["parallelism"]
    assert job["completions"] == pods and job["completionMode"] == "Indexed"
    address = f"{name}-{replicated['name']}-0-0.{name}:8476"
    assert f"--distributed={address},{pods},$(JOB_COMPLETION_INDEX)" in container["args"]
    assert container["name"] == job["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"]
    claims = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert f"--workdir={claims['runs']}/punks" in container["args"]


def test_the_page_says_of_every_code_what_the_files_do():
    page = (DEPLOY / "README.md").read_text()
    rows = {int(row[1]): row[2].split(" | ") for row in re.finditer(r"^\| (\d+) \| (.*) \|$", page, re.MULTILINE)}
    assert set(rows) == set(Exit)
    for code, (_, *launchers) in rows.items():
        assert [said.startswith("again") for said in launchers] == [code in AGAIN] * 3, code
    (line,) = re.findall(r"^xpk workload create .*$", page, re.MULTILINE)
    (codes,) = re.findall(r"--restart-on-exit-codes=(\S+)", line)
    assert {int(code) for code in codes.split(",")} == AGAIN
