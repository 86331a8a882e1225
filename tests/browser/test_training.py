"""A training that a browser starts: watched, found again by other tabs and dashboards, stopped, resumed, binned."""

import json
import os
import signal
import time

import psutil
import pytest

from ddpm_jax import archive
from ddpm_jax.dashboard import jobs

from .conftest import settled, wait_for


def the_job(workdir):
    """The folder and the run file of the one job that the dashboard started."""
    (file,) = workdir.glob(f"*/{jobs.FILE}")
    return file.parent, json.loads(file.read_bytes())


@pytest.fixture
def started(serve, page, tmp_path):
    """A dashboard on an empty workdir, its page, with the embedded set in training."""
    workdir, data = tmp_path / "workdir", tmp_path / "data"
    workdir.mkdir()
    found = serve(workdir, data)
    page.goto(f"{found.url}/train")
    settled(page)
    page.get_by_role("spinbutton", name="Batch size").fill("16")
    page.get_by_role("spinbutton", name="Batch size").press("Enter")
    settled(page)
    page.get_by_role("button", name="Start training").dblclick()
    page.get_by_text("is in the queue").wait_for()
    yield found
    for process in [job for path in workdir.glob(f"*/{jobs.FILE}") if (job := jobs.read(path.parent))]:
        if process.alive:
            os.kill(process.process["pid"], signal.SIGKILL)


def test_a_training_is_launched_watched_found_again_stopped_and_resumed(started, serve, page):
    folder, job = the_job(started.workdir)  # one, though the click was double
    assert job["config"] == "avatars_cfg" and job["changes"]["train.batch_size"] == 16
    page.get_by_text("step", exact=False).filter(has_text="of 3,000").first.wait_for(timeout=90_000)
    page.reload()
    settled(page)
    page.get_by_text(folder.name).first.wait_for()
    pid = the_job(started.workdir)[1]["process"]["pid"]

    page.goto("about:blank")  # a tab that stays would complain, rightly, that its server is gone
    for child in psutil.Process(started.process.pid).children(recursive=True):  # Streamlit, and what samples for it
        if child.pid != pid and "ddpm_jax.dashboard.jobs" not in " ".join(child.cmdline()):
            child.kill()
    started.process.wait(30)
    assert psutil.pid_exists(pid)
    other = serve(started.workdir, started.data)
    page.goto(f"{other.url}/train")
    settled(page)
    page.get_by_text(folder.name).first.wait_for()
    page.get_by_text("running").first.wait_for()
    assert the_job(started.workdir)[1]["process"]["pid"] == pid

    page.get_by_role("button", name="Stop").click()
    page.get_by_text("stopped").first.wait_for(timeout=60_000)
    wait_for(lambda: the_job(started.workdir)[1]["code"] == 75)
    step = archive.steps(folder / "checkpoints")[0]
    archive.verify(folder / "checkpoints" / str(step))

    page.get_by_role("button", name="Resume").click()
    page.get_by_text("running").first.wait_for(timeout=60_000)
    wait_for(lambda: json.loads((folder / "progress.json").read_bytes())["step"] > step)
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("stopped").first.wait_for(timeout=60_000)

    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Move to trash").click()
    page.get_by_text("is in the trash").wait_for()
    assert not folder.exists() and list((started.workdir / jobs.TRASH).iterdir())


def test_a_run_in_progress_is_monitored(started, page):
    folder, _ = the_job(started.workdir)
    wait_for((folder / "progress.json").exists, 90)
    page.goto(f"{started.url}/monitor")
    settled(page)
    page.get_by_text(folder.name).first.wait_for()
    before = json.loads((folder / "progress.json").read_bytes())["step"]
    page.get_by_text("running").first.wait_for()
    wait_for(lambda: json.loads((folder / "progress.json").read_bytes())["step"] > before)
    time.sleep(3)  # the page looks again by itself
    assert page.locator('[data-testid="stException"]').count() == 0
    assert page.locator("canvas, svg.marks, .vega-embed").count() >= 1
