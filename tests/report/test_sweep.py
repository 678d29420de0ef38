import json

from hct_lightning.report.sweep import MOST_OPTIONS, draw, mark_pareto, report


def point(accuracy, images_s, peak_gib, **options):
    return {"accuracy": accuracy, "images_s": images_s, "peak_gib": peak_gib, "options": options}


def test_pareto_front_and_figure(tmp_path):
    points = [
        point(0.9, 10.0, 1.0, r=256, b=4),
        point(0.9, 9.0, 1.0, r=512, b=4),  # slower than the first, and no better
        point(0.95, 5.0, 2.0, r=512, b=8),
        point(0.5, 11.0, 3.0, r=256, b=8),  # the fastest
        point(None, None, None, r=1024, b=8),
    ]
    mark_pareto(points)
    assert [p["pareto"] for p in points] == [True, False, True, True, False]
    assert draw(points, tmp_path / "sweep.png")
    assert not draw([point(0.9, 1.0, 1.0, optim="sgd")], tmp_path / "none.png")


def test_points_of_pretraining_are_compared_by_their_loss(tmp_path, capsys):
    for seed, loss in enumerate([0.25, 0.75]):
        (tmp_path / str(seed)).mkdir()
        record = {"overrides": ["task=pretrain", f"seed={seed}"], "task": "pretrain", "status": "completed"}
        record["metrics"] = {"val/loss": loss, "memory/peak_gib": 1.0}
        (tmp_path / str(seed) / "run.json").write_text(json.dumps(record))
    assert report(tmp_path)
    shown = capsys.readouterr().out
    assert "accuracy" not in shown
    assert all(text in shown for text in ("loss", "0.2500", "0.7500", "0.5000 ±"))  # each, and their mean
    assert [point["loss"] for point in json.loads((tmp_path / "sweep.json").read_text())] == [0.25, 0.75]


def test_more_options_than_a_table_has_room_for_stand_in_the_file(tmp_path, capsys):
    parts = {"load_s": 0.0, "train_s": 1.0, "wait_s": 0.0, "run_s": 1.0}
    for count in (MOST_OPTIONS, MOST_OPTIONS + 1):
        sweep = tmp_path / str(count)
        for point in (0, 1):
            folder = sweep / str(point)
            folder.mkdir(parents=True)
            record = {
                "overrides": [f"option_{n}={point}" for n in range(count)],
                "status": "completed",
                "metrics": {"best": 0.5, "memory/peak_gib": 1.0},
                "epoch_times": [{"epoch": 1, "images_s": 2.0, "ranks": [parts], **parts}],
            }
            (folder / "run.json").write_text(json.dumps(record))
        assert report(sweep)
        shown = capsys.readouterr().out
        assert ("their options:" in shown) == (count > MOST_OPTIONS)
        assert (sweep / "sweep.png").exists() == (count <= MOST_OPTIONS)
        assert len(json.loads((sweep / "sweep.json").read_text())[0]["options"]) == count
