"""What a report shows of `task=explain`."""

import json

from PIL import Image

from hct_lightning.report.files import open_runs
from hct_lightning.report.page import Pictures, Table
from hct_lightning.report.sections.explanations import explanations
from hct_lightning.report.write import write_report


def test_overlays_correlations_and_the_field(full_run):
    folder = full_run
    overlays, alike, figure, field = explanations(open_runs([folder])).blocks
    assert overlays.caption == "<i>.jpg: cat 90.0%, maps for cat"
    assert [picture.text for picture in overlays.pictures] == ["gradient"]
    assert alike.rows == [["<i>.jpg", "gradient", 0.125]]
    assert figure.pictures[0].file.name == "receptive_field.jpg"
    assert field.rows == [["HCT", "trained", 0.25, 0.5]]
    page = write_report([folder], folder).read_text()
    assert "Where the network looks" in page
    assert '<figure class="pictures whole">' in page
    assert "<i>.jpg" not in page


def test_places_of_a_large_image_stand_behind_its_map(full_run):
    file = full_run / "explain" / "explain.json"
    record = json.loads(file.read_text())
    about = record["images"][0]["maps"]["gradient"]
    about["places"] = [{"jpg": about["jpg"]}, {"jpg": "../../private.jpg"}]
    file.write_text(json.dumps(record))
    overlays = explanations(open_runs([full_run])).blocks[0]
    assert [picture.text for picture in overlays.pictures] == ["gradient", "gradient, place 1"]


def test_files_elsewhere_that_a_folder_names_are_not_shown(full_run):
    Image.new("RGB", (64, 48)).save(full_run.parent / "private.jpg")
    file = full_run / "explain" / "explain.json"
    file.write_text(file.read_text().replace("a/gradient.jpg", "../../private.jpg"))
    kinds = [type(block) for block in explanations(open_runs([full_run])).blocks]
    assert kinds == [Table, Pictures, Table]


def test_what_is_missing_names_its_command(make_run):
    section = explanations(open_runs([make_run()]))
    assert section.is_missing
    assert "task=explain" in section.blocks[0].command
