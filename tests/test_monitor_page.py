"""The Monitor page: views of runs that train, have ended, are damaged, or are not there."""

import json
import shutil

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from ddpm_jax import archive, images, runtime
from ddpm_jax.dashboard import charts, inspection, jobs, monitor, runs, serve

VIEWS = list(monitor.VIEWS)


def page():
    from ddpm_jax.dashboard import monitor

    monitor.show()


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv(serve.ROOT, str(tmp_path))
    monkeypatch.setattr(jobs, "see_to_queue", lambda root: None)
    return tmp_path


@pytest.fixture
def finished(root, trained):
    """A copy of a finished run, with checkpoints."""
    shutil.copytree(trained, root / "finished")
    return root / "finished"


def write(folder, rows=(), sheets=(), **progress):
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "samples").mkdir()
    for step in sheets:
        images.write_png(images.to_pil(np.zeros((8, 8, 3), np.uint8)), folder / "samples" / f"samples_{step:07}.png")
    if progress:
        runtime.write_progress(folder, **progress)
    return folder


def rows(values, **others):
    return [{"step": 10 * i, "time": 100.0 + i, "loss": value, **others} for i, value in enumerate(values, 1)]


def opened(view="Curves", *names):
    app = AppTest.from_function(page, default_timeout=20)
    if names:
        app.session_state["runs"] = list(names)
    app.session_state["view"] = view
    app.run()
    assert not app.exception
    return app


def text(app):
    kinds = ("markdown", "caption", "error", "success", "info", "warning")
    return "\n".join(str(one.value) for kind in kinds for one in app.get(kind))


def charted(app):
    """The charts of a page, as Vega-Lite has them."""
    return [json.loads(one.proto.spec) for one in app.get("vega_lite_chart")]


def test_a_folder_without_runs_says_what_can_be_done(root):
    assert "The Train page starts one" in text(opened())
    shutil.rmtree(root)
    assert "The Train page starts one" in text(opened())


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_shows_several_runs_a_finished_one_and_files_torn_in_the_middle(root, finished, view):
    write(root / "study" / "a", rows([3.0, 2.0], images_per_second=5.0), [10, 20], status="running", step=20, steps=40)
    torn = write(root / "torn")
    (torn / "metrics.jsonl").write_bytes(b'{"step": 10, "time": 1.0, "loss": 2.0}\n{"step": 20, "ti')
    (torn / "progress.json").write_text('{"step": "x", "st')
    (torn / "samples" / "samples_0000010.png").write_bytes(b"\x89PNG")
    (torn / "checkpoints" / "10").mkdir(parents=True)
    app = opened(view, "finished", "study/a", "torn")
    shown = text(app)
    assert all(f"**{name}**" in shown for name in ("finished", "study/a", "torn"))
    assert "step 20 of 40" in shown
    assert "**torn**" in text(opened(view, "torn"))


def test_a_run_that_is_deleted_while_it_is_watched_is_left_out(root):
    write(root / "a", rows([1.0]))
    write(root / "b", rows([1.0]))
    app = opened("Curves", "a", "b")
    shutil.rmtree(root / "a")
    app.run()
    assert not app.exception
    assert "**a**" not in text(app) and "**b**" in text(app)


def pages():
    import streamlit as st

    from ddpm_jax.dashboard import monitor

    if not st.session_state.get("elsewhere"):
        monitor.show()


def visited(app):
    """The page after a visit to another one."""
    for elsewhere in (True, False):
        app.session_state["elsewhere"] = elsewhere
        app.run()
        assert not app.exception and not app.warning and bool(app.multiselect) != elsewhere
    return app


def test_what_was_chosen_is_there_again_after_a_visit_to_another_page(root):
    for name in "abc":
        write(root / name, rows([3.0, 2.0], **{"error/t_0.00_0.25": 0.1, "eval/exact": 0.5}))
    app = AppTest.from_function(pages, default_timeout=20).run()
    assert app.slider(key="window").value == (0, 100)
    app.multiselect(key="runs").set_value(["a", "b"]).run()
    app.multiselect(key="curves").set_value(["loss"])
    app.slider(key="window").set_value((10, 90))
    app.slider(key="smoothing").set_value(0.5)
    app.button_group(key="log").set_value("none").run()
    app.button_group(key="view").set_value("Noise levels").run()
    app.selectbox(key="one").set_value("b")
    app.slider(key="noise_smoothing").set_value(0.25)
    app.toggle(key="noise_log").set_value(False).run()
    visited(app)
    assert (app.multiselect(key="runs").value, app.button_group(key="view").value) == (["a", "b"], "Noise levels")
    assert (app.selectbox(key="one").value, app.slider(key="noise_smoothing").value) == ("b", 0.25)
    assert app.toggle(key="noise_log").value is False
    app.button_group(key="view").set_value("Curves").run()
    visited(visited(app))
    assert (app.slider(key="smoothing").value, app.slider(key="window").value) == (0.5, (10, 90))
    assert (app.multiselect(key="curves").value, app.button_group(key="log").value) == (["loss"], "none")
    shutil.rmtree(root / "a")
    assert visited(app).multiselect(key="runs").value == ["b"]


def test_what_is_changed_within_a_view_is_kept_though_the_page_is_left_at_once(root):
    def part():
        import streamlit as st

        from ddpm_jax.dashboard import monitor

        if not st.session_state.get("elsewhere"):
            monitor._live(["a"], "Curves")

    write(root / "a", rows([3.0, 2.0]))
    app = AppTest.from_function(part, default_timeout=20).run()
    app.slider(key="smoothing").set_value(0.5).run()
    for elsewhere in (True, False):
        app.session_state["elsewhere"] = elsewhere
        app.run()
    assert app.slider(key="smoothing").value == 0.5


def test_the_address_names_the_runs_and_a_link_chooses_them(root):
    for name in ("a", "b", "study/c"):
        write(root / name, rows([1.0]))
    app = AppTest.from_function(page, default_timeout=20)
    app.query_params["run"] = ["study/c", "a", "../x"]
    app.run()
    assert app.multiselect(key="runs").value == ["study/c", "a"] == app.query_params["run"]
    app.multiselect(key="runs").set_value(["b"]).run()
    assert app.query_params["run"] in ("b", ["b"])
    app.multiselect(key="runs").set_value([]).run()
    assert "Choose a run" in text(app) and "run" not in app.query_params


def test_a_part_that_refreshes_itself_passes_over_a_run_that_is_gone(root):
    def part():
        from ddpm_jax.dashboard import monitor

        monitor._live(["gone", "b"], "Curves")

    write(root / "b", rows([1.0]))
    app = AppTest.from_function(part, default_timeout=20).run()
    assert not app.exception
    assert "**b**" in text(app)
    shutil.rmtree(root / "b")
    assert "These runs are gone" in text(app.run())


def test_a_view_of_a_single_run_shows_the_one_that_is_chosen(root, finished):
    write(root / "other", rows([1.0]))
    app = opened("Checkpoints", "finished", "other")
    assert len(app.dataframe) == 1
    app.selectbox(key="one").set_value("other").run()
    assert "No checkpoint yet" in text(app)


def test_curves_are_laid_over_each_other_for_what_was_measured(root):
    write(root / "a", [*rows([3.0, 2.0]), {"step": 20, "eval/exact": 0.25}])
    write(root / "b", rows([5.0, 4.0]))
    app = opened("Curves", "a", "b")
    assert "**Loss**" in text(app) and "**Exact match**" in text(app)
    assert [chart["encoding"]["x"]["scale"]["domain"] for chart in charted(app)] == [[0, 20], [0, 20]]
    app.multiselect(key="curves").set_value(["loss"]).run()
    assert len(app.get("vega_lite_chart")) == 1
    loss = charted(app)[0]
    assert loss["encoding"]["y"]["scale"]["type"] == "log"
    assert loss["encoding"]["color"]["scale"]["domain"] == ["a", "b"]


def test_the_words_of_a_run_are_bars_from_the_least_to_the_most(root):
    values = {"eval/exact": 0.5, "eval/exact/Cap": 1.0, "eval/exact/Beard": 0.25}
    write(root / "a", [{"step": 10, "time": 1.0, **values}])
    app = opened("Words", "a")
    assert "2 words, mean 62.5%, 1 at 100%" in text(app)
    assert charts.by_word(runs.scalars(root / "a"), "eval/exact") == {"Beard": 0.25, "Cap": 1.0}
    assert list(charts.by_word(runs.scalars(root / "a"), "eval/exact")) == ["Beard", "Cap"]
    assert "counts no words" in text(opened("Words", str(write(root / "b", rows([1.0])).name)))


def test_a_run_of_an_address_that_is_not_here_is_said(root):
    write(root / "a", rows([1.0]))
    app = AppTest.from_function(page, default_timeout=20)
    app.query_params["run"] = ["a", "nope"]
    app.run()
    assert "There is no run nope here" in text(app) and "**a**" in text(app)


def test_noise_levels_are_named_by_their_times(root):
    write(root / "a", rows([1.0, 0.5], **{"error/t_0.00_0.25": 0.1, "error/t_0.75_1.00": 0.9}))
    levels = charts.levels(runs.scalars(root / "a"))
    assert list(levels) == ["t 0.00 to 0.25", "t 0.75 to 1.00"]
    assert levels["t 0.75 to 1.00"][1].tolist() == [0.9, 0.9]
    assert len(opened("Noise levels", "a").get("vega_lite_chart")) == 1


def test_the_sample_history_is_a_slider_over_the_steps_of_all_runs(root):
    write(root / "a", sheets=[10, 30])
    write(root / "b", sheets=[20])
    app = opened("Samples", "a", "b")
    slider = app.select_slider[0]
    assert slider.options == ["10", "20", "30"]
    assert "a, step 30" in text(app) and "b, step 20" in text(app)
    slider.set_value(10).run()
    assert "a, step 10" in text(app)


def test_settings_differ_where_runs_do_and_are_searched(root, finished):
    other = write(root / "other", rows([1.0]))
    job = {"config": "avatars_cfg", "changes": {"train.steps": 99}, "created": 1.0, "state": "ended"}
    (other / jobs.FILE).write_text(json.dumps(job))
    app = opened("Settings", "finished", "other")
    differing = app.dataframe[0].value.set_index("setting")
    assert differing.loc["train.steps"].tolist() == ["8", "99"]
    app.text_input(key="search").set_value("Learning").run()
    assert app.dataframe[1].value["setting"].tolist() == ["optimizer.learning_rate"]
    app.text_input(key="search").set_value("<script>").run()
    assert "None of" in text(app)


def test_a_whole_checkpoint_is_verified_and_a_damaged_one_is_named(root, finished):
    app = opened("Checkpoints", "finished")
    assert app.dataframe[0].value["step"].tolist() == archive.steps(finished / "checkpoints")
    (verify,) = [one for one in app.button if one.label == "Verify every array"]
    verify.click().run()
    assert "Whole: every array of step 8 is what was saved." in text(app)
    file = max((path for path in (finished / "checkpoints" / "8" / "state").rglob("*") if path.is_file()), key=size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    app = opened("Checkpoints", "finished")
    next(one for one in app.button if one.label == "Verify every array").click().run()
    assert not app.exception
    assert "is damaged" in app.error[0].value
    (finished / "checkpoints" / "8" / "meta" / "metadata").write_text("{")
    assert "meta/metadata is illegible" in opened("Checkpoints", "finished").error[0].value


def size(path):
    return path.stat().st_size


def test_goodput_is_training_time_over_wall_time(root):
    """Three windows of 10 steps of 16 pictures; the two between the lines took 1 s of 2 s and of 2 s: half."""
    folder = write(root / "a")
    lines = [{"step": 10 * i, "time": 100.0 + 2 * i, "loss": 1.0, "images_per_second": 160.0} for i in (1, 2, 3)]
    lines[0]["data_wait"] = 0.25
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    job = {"config": "avatars_cfg", "changes": {"train.batch_size": 16}, "created": 1.0, "state": "ended"}
    (folder / jobs.FILE).write_text(json.dumps(job))
    found = inspection.goodput(runs.find(root, "a"))
    assert found["Training"] == "50% of the wall time"
    assert (found["Images/s now"], found["Wall time"]) == ("160", "4 s")
    assert found["Waiting for data"] == "25.00% of the time"
    assert inspection.goodput(runs.find_all(root)[0]._replace(folder=root)) == {}


def test_a_running_run_is_shown_with_the_time_that_is_left(root):
    write(root / "a", rows([1.0]), status="running", step=10, steps=50, eta_s=600.0)
    assert "step 10 of 50 · 10 min left · loss 1" in text(opened("Curves", "a"))


def test_tensorboard_is_started_by_a_click_and_then_shown_by_its_address(root, monkeypatch):
    write(root / "a", rows([1.0]))
    starts = []

    class Child:
        def poll(self):
            return None

    def start(where):
        starts.append(where)
        return Child(), "http://127.0.0.1:6006/"

    monkeypatch.setattr(inspection.tensorboard, "start", start)
    inspection._board.clear()
    app = opened("TensorBoard", "a")
    assert not starts
    next(one for one in app.button if one.label == "Start TensorBoard").click().run()
    app = opened("TensorBoard", "a")
    assert starts == [root]
    assert [one.proto.url for one in app.get("link_button")] == ["http://127.0.0.1:6006/"]
    assert [one.proto.src for one in app.get("iframe")] == ["http://127.0.0.1:6006/"]
    inspection._board.clear()


def test_lines_are_thinned_to_what_can_be_seen_and_keep_their_end():
    steps = np.arange(10_000)
    kept, values = charts.thinned(steps, steps * 2.0)
    assert len(kept) <= charts.POINTS + 1
    assert kept[-1] == 9_999
    assert np.array_equal(values, kept * 2.0)
    assert charts.thinned(steps[:5], steps[:5])[0].tolist() == [0, 1, 2, 3, 4]


def test_a_logarithm_is_drawn_of_positive_values_alone():
    chart = charts.curves("loss", {"a": (np.arange(4), np.array([1.0, 0.0, -1.0, np.nan]))}, log=True).to_dict()
    (data,) = chart["datasets"].values()
    assert [row["value"] for row in data] == [1.0]
