from hct_lightning.report.sweep import draw, mark_pareto


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
