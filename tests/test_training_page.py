"""The Train page: what a click puts into the queue, what it refuses, and the cards of jobs."""

import json
import os
import threading
import time
from concurrent.futures import Future

import numpy as np
import pytest
from streamlit.runtime.scriptrunner import RerunData, get_script_run_ctx
from streamlit.testing.v1 import AppTest

from ddpm_jax import images
from ddpm_jax.dashboard import cards, jobs, runs, sampler, serve, training, ui, worker
from ddpm_jax.processes import Process


class Late:
    """A sampling process that is busy: its check ends late, and only after `click` made the page start over."""

    def __init__(self):
        self.clicks, self.checks = [], []

    def ask(self, do, *, owner="", **arguments):
        if do != "check":
            return Direct().ask(do, **arguments)
        context, checked = get_script_run_ctx(), Future()
        self.checks.append(arguments)

        def answer():
            for states in self.clicks:
                time.sleep(0.3)  # the page waits
                requests = context.script_requests
                requests.request_rerun(RerunData(widget_states=states, page_script_hash=context.page_script_hash))
            time.sleep(0.3)
            checked.set_result(worker.respond({"do": do, **arguments}).get("answer"))

        threading.Thread(target=answer, daemon=True).start()
        return checked


class Direct:
    """The sampling process's answers, given by this one."""

    def __init__(self):
        self.asked = []

    def ask(self, do, *, owner="", **arguments):
        self.asked.append(do)
        reply, future = worker.respond({"do": do, **arguments}), Future()
        if "error" in reply:
            future.set_exception(sampler.Failed(reply["error"]))
        else:
            future.set_result(reply["answer"])
        return future


def page():
    from ddpm_jax.dashboard import training

    training.show()


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A workdir root; no queue is started for it."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setenv(serve.ROOT, str(work))
    monkeypatch.setenv(serve.DATA, str(tmp_path / "data"))
    monkeypatch.setattr(jobs, "see_to_queue", lambda root: None)
    monkeypatch.setattr(ui, "sampler", Direct)
    return work


def opened():
    app = AppTest.from_function(page, default_timeout=20).run()
    assert not app.exception
    return app


def added(root):
    return [jobs.read(folder) for folder in jobs.waiting(root)]


def write(folder, **fields):
    folder.mkdir()
    job = {"config": "avatars_cfg", "changes": {}, "created": 1.0, **fields}
    (folder / jobs.FILE).write_text(json.dumps(job))
    return folder


def button(app, label):
    (found,) = [one for one in app.button if one.label == label]
    return found


def labels(app):
    return [one.label for one in app.button]


def text(app):
    return "\n".join(
        str(one.value) for kind in ("markdown", "caption", "error", "success", "code") for one in app.get(kind)
    )


def test_with_nothing_there_one_click_trains_the_embedded_faces(root):
    app = opened()
    button(app, "Train the embedded faces (2 minutes)").click().run()
    assert not app.exception
    (job,) = added(root)
    assert (job.config, job.changes) == ("avatars_cfg", {"train.minutes": 2.2, "data.root": ui.data_root()})
    assert "Train the embedded faces (2 minutes)" not in labels(app)
    assert "is in the queue" in text(app)


def test_a_job_has_what_was_changed_and_where_the_data_are(root):
    app = opened()
    app.number_input(key="avatars_cfg/train.steps").set_value(120)
    app.number_input(key="avatars_cfg/optimizer.learning_rate").set_value(0.003)
    app.selectbox(key="avatars_cfg/data.holdout").set_value("pairs")
    app.text_input(key="avatars_cfg/net.multipliers").set_value("1, 2, 2")
    app.toggle(key="avatars_cfg/net.remat").set_value(True)
    button(app, "Start training").click().run()
    (job,) = added(root)
    wanted = {
        "train.steps": 120,
        "optimizer.learning_rate": 0.003,
        "data.holdout": "pairs",
        "net.multipliers": [1, 2, 2],
    }
    assert job.changes == {**wanted, "net.remat": True, "data.root": ui.data_root()}


def test_the_times_of_guidance_are_a_slider(root):
    app = opened()
    app.slider(key="avatars_cfg/sampling.interval").set_range(0.4, 0.8)
    button(app, "Start training").click().run()
    (job,) = added(root)
    assert job.changes == {"sampling.interval": [0.4, 0.8], "data.root": ui.data_root()}


def test_another_configuration_says_what_it_needs(root):
    app = opened()
    assert "Embedded faces: needs no download" in text(app)
    app.selectbox(key="config").set_value("mnist_classes_cfg").run()
    assert "MNIST: will be downloaded first" in text(app)
    app.selectbox(key="config").set_value("punks_cfg").run()
    cache = root.parent / "data" / "cache"
    cache.mkdir(parents=True)
    (cache / "punks_images.npz").touch()
    app.run()
    assert "CryptoPunks: will be downloaded first" in text(app)
    (cache / "punks_labels.npz").touch()
    app.run()
    assert "CryptoPunks: already here" in text(app)
    (cache / "mnist.npz").touch()
    app.selectbox(key="config").set_value("mnist_classes_cfg").run()
    assert "MNIST: already here" in text(app)
    button(app, "Start training").click().run()
    assert [job.config for job in added(root)] == ["mnist_classes_cfg"]


def test_a_double_click_makes_one_job_and_a_later_click_another(root, monkeypatch):
    app = opened()
    for _ in range(2):
        button(app, "Start training").click().run()
    assert len(added(root)) == 1
    app.number_input(key="avatars_cfg/train.steps").set_value(7)
    button(app, "Start training").click().run()
    assert len(added(root)) == 2
    monkeypatch.setattr(training, "TWICE_S", 0.0)
    button(app, "Start training").click().run()
    assert len(added(root)) == 3


def test_what_was_chosen_is_there_again_after_a_visit_to_another_page(root):
    def pages():
        import streamlit as st

        from ddpm_jax.dashboard import training

        if not st.session_state.get("elsewhere"):
            training.show()

    app = AppTest.from_function(pages, default_timeout=20).run()
    app.selectbox(key="config").set_value("punks_cfg").run()
    app.number_input(key="punks_cfg/train.steps").set_value(60)
    app.number_input(key="punks_cfg/optimizer.learning_rate").set_value(0.003)
    app.selectbox(key="punks_cfg/data.holdout").set_value("pairs")
    app.text_input(key="punks_cfg/net.multipliers").set_value("1, 2, 2")
    app.toggle(key="punks_cfg/net.remat").set_value(True).run()
    for elsewhere in (True, False, True, False):
        app.session_state["elsewhere"] = elsewhere
        app.run()
        assert not app.exception and not app.warning and bool(app.selectbox) != elsewhere
    button(app, "Start training").click().run()
    (job,) = added(root)
    wanted = {"train.steps": 60, "optimizer.learning_rate": 0.003, "net.multipliers": [1, 2, 2], "net.remat": True}
    assert job.config == "punks_cfg"
    assert job.changes == {**wanted, "data.holdout": "pairs", "data.root": ui.data_root()}


@pytest.mark.parametrize("label", ["Start training", "Train the embedded faces (2 minutes)"])
@pytest.mark.parametrize("clicks", [0, 1, 2])
def test_a_double_click_makes_one_job_though_the_sampling_process_is_busy(root, monkeypatch, label, clicks):
    late = Late()
    monkeypatch.setattr(ui, "sampler", lambda: late)
    app = opened()
    button(app, label).click()
    late.clicks = [app._tree.get_widget_states()] * clicks
    app.run()
    assert not app.exception
    assert len(added(root)) == len(late.checks) == 1
    assert "is in the queue" in text(app)
    app.run()
    assert len(added(root)) == 1


def test_a_launch_that_the_page_was_left_for_is_a_job_and_a_disk_that_is_full_a_sentence(root, monkeypatch):
    late = Late()
    monkeypatch.setattr(ui, "sampler", lambda: late)
    app = opened()
    late.clicks = [app._tree.get_widget_states()]  # no click: something else that starts the page over
    button(app, "Start training").click().run()
    assert len(added(root)) == 1 and "is in the queue" in text(app)

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(jobs, "add", full)
    app.number_input(key="avatars_cfg/train.steps").set_value(7)
    button(app, "Start training").click().run()
    assert [error.value for error in app.error] == ["The run cannot start: no space left"]
    assert not app.run().error


def test_what_no_run_could_use_is_one_sentence_and_no_job(root):
    app = opened()
    app.number_input(key="avatars_cfg/train.accumulate").set_value(3)
    button(app, "Start training").click().run()
    assert not app.exception
    assert [error.value for error in app.error] == [
        "train.batch_size is 64; it must be a multiple of train.accumulate, 3"
    ]
    assert added(root) == []


@pytest.mark.parametrize("said", ["1; rm -rf", "__import__('os')", "1.5", "-1", "1,,2", "9" * 50, "\u0661"])
def test_what_is_no_list_of_numbers_cannot_be_started(root, said):
    app = opened()
    app.text_input(key="avatars_cfg/net.multipliers").set_value(said).run()
    assert "no list of whole numbers" in app.error[0].value
    assert button(app, "Start training").disabled


def test_lists_of_numbers_are_read_and_nothing_else():
    assert training.numbers("1, 2,2 ") == [1, 2, 2]
    assert training.numbers("") == []
    assert training.numbers("(6,)") is None


def test_no_widget_takes_a_path(root):
    app = opened()
    keys = {one.key for kind in ("text_input", "selectbox", "number_input", "toggle") for one in app.get(kind)}
    asked = {str(key).partition("/")[2] for key in keys}
    assert {"train.steps", "net.channels", "data.storage"} <= asked
    assert not {"**Init_from**", "**Init from**"} & {one.value for one in app.markdown}
    assert not asked & {"data.name", "data.path", "data.root", "init_from", "runtime.cache"}
    assert {one.key.partition("/")[2] for one in app.text_input} == {"net.multipliers", "net.attention"}
    assert app.selectbox(key="avatars_cfg/data.holdout").options == ["iid", "nothing", "pairs"]


def test_the_options_are_asked_for_once(root, monkeypatch):
    direct = Direct()
    monkeypatch.setattr(ui, "sampler", lambda: direct)
    training._kept_options.clear()
    opened().run().run()
    opened()
    assert direct.asked == ["options"]


def test_a_sampling_process_that_fails_leaves_the_jobs_on_the_page(root, monkeypatch):
    class Broken:
        def ask(self, do, **_):
            future = Future()
            future.set_exception(sampler.Failed("the sampling process ended"))
            return future

    training._kept_options.clear()
    monkeypatch.setattr(ui, "sampler", Broken)
    write(root / "mine")
    app = opened()
    assert "the sampling process ended" in text(app)
    assert "**mine**" in text(app)
    assert {"Try again", "Take out of the queue"} <= set(labels(app))


def test_waiting_jobs_stand_in_their_order_and_are_taken_out(root):
    for place, name in enumerate(("late", "early")):
        write(root / name, created=10.0 - place)
    app = opened()
    shown = text(app)
    assert shown.index("**early**") < shown.index("**late**")
    assert shown.index("Next in the queue") < shown.index("2 of 2 in the queue")
    app.button(key="stop/early").click().run()
    assert [folder.name for folder in jobs.waiting(root)] == ["late"]
    assert runs.find(root, "early").state == "stopped"
    app.button(key="resume/early").click().run()
    assert [folder.name for folder in jobs.waiting(root)] == ["late", "early"]


def test_a_refused_job_shows_the_last_line_of_its_log_as_text(root):
    folder = write(root / "mine", state="ended", code=65)
    (folder / jobs.LOG).write_text("first\n<script>alert(1)</script> seed is -1\n")
    app = opened()
    assert [code.value for code in app.code] == ["<script>alert(1)</script> seed is -1"]
    assert "refused" in text(app)
    assert "Resume" in labels(app)


def test_a_run_that_trains_shows_its_step_its_time_left_and_its_samples(root):
    me = Process.current()
    folder = write(root / "mine", state="started", process=vars(me))
    cards.runtime.write_progress(folder, status="running", step=30, steps=120, loss=0.25, rate=4.0, eta_s=22.5)
    rows = [{"step": step, "time": 1.0 + step, "loss": 1 / step} for step in (10, 20, 30)]
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, {"step": 30, "eval/exact": 0.5}])
    )
    (folder / "samples").mkdir()
    images.write_png(images.to_pil(np.zeros((8, 8, 3), np.uint8)), folder / "samples" / "samples_0000030.png")
    app = opened()
    (progress,) = app.get("progress")
    assert (progress.proto.value, progress.proto.text) == (25, "step 30 of 120 · 22 s left")
    assert "loss 0.25 · 4 steps/s" in text(app)
    assert "Exact match: 50.0% of held-out labels" in text(app)
    assert "Samples at step 30" in text(app)
    assert len(app.get("vega_lite_chart")) == 2
    assert "Stop" in labels(app) and "Delete" not in labels(app)


def test_a_job_that_was_asked_to_stop_can_be_ended_at_once_only_when_that_would_act(root, monkeypatch):
    folder = write(root / "mine", state="started", process=vars(Process.current()))
    signals = []
    monkeypatch.setattr(jobs, "_signal", lambda *which: signals.append(which) or True)
    app = opened()
    button(app, "Stop").click().run()
    assert len(signals) == 1
    assert button(app, "Stopping ...").disabled and not {"Stop", "Stop at once"} & set(labels(app))
    os.utime(folder / jobs.STOP, (time.time() - jobs.AGAIN_S - 1,) * 2)
    app.run()
    assert not button(app, "Stop at once").disabled
    button(app, "Stop at once").click().run()
    assert len(signals) == 2


def test_files_that_are_half_written_break_no_card(root):
    folder = write(root / "mine", state="ended", code=75)
    (folder / "progress.json").write_text('{"step": "many", "steps": [], "pid": Infinity, "status": 7}')
    (folder / "metrics.jsonl").write_text('{"step": 5, "loss": 2.0}\n{"step": 10, "loss": 1.0}\n{"step": 20, "ti')
    (folder / "samples").mkdir()
    (folder / "samples" / "samples_0000010.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    app = opened()
    assert "**mine**" in text(app)
    assert len(app.get("vega_lite_chart")) == 1
    assert not app.get("progress")
    (folder / "metrics.jsonl").write_text('{"step": 10, "time": 1.0, "loss": {}}\n')
    assert not opened().get("vega_lite_chart")


def test_delete_asks_first_and_says_where_the_run_is_then(root):
    folder = write(root / "mine", state="ended", code=0)
    app = opened()
    assert "Resume" not in labels(app)
    app.button(key="delete/mine").click().run()
    assert folder.exists()
    app.button(key="delete_not").click().run()
    assert folder.exists()
    app.button(key="delete/mine").click().run()
    app.button(key="delete_really").click().run()
    assert not app.exception
    (place,) = (root / jobs.TRASH).iterdir()
    assert not folder.exists()
    assert f"mine is in the trash: {place}" in text(app)


def test_a_job_left_waiting_by_a_queue_that_is_gone_gets_another(root, monkeypatch):
    started = []
    monkeypatch.setattr(jobs, "see_to_queue", started.append)
    opened()
    assert started == []
    write(root / "mine")
    opened()
    assert started == [root]


def test_a_docstring_becomes_paragraphs_without_its_commands():
    about = "What it is,\nin two lines.\n\nRun it:\n\n    python -m x\n\nHow long it takes."
    assert training.paragraphs(about) == ["What it is, in two lines.", "How long it takes."]
    assert training.paragraphs("") == [""]


@pytest.mark.parametrize(("seconds", "words"), [(-1, "0 s"), (45, "45 s"), (600, "10 min"), (11_100, "3 h 05 min")])
def test_durations_are_words(seconds, words):
    assert cards.clock(seconds) == words
