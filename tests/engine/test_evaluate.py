"""Evaluations of a small drawn category, and of real bottles."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from patchcore_engine.datasets import evaluation_set, training_pictures
from patchcore_engine.errors import DataError, NoPicturesError, UndecodableImageError
from patchcore_engine.evaluate import evaluate
from patchcore_engine.evaluation import Evaluation, mean_figures, percent, write_json
from patchcore_engine.fit import FitSettings, fit
from patchcore_engine.fit_job import geometry_for
from patchcore_engine.images import read
from patchcore_engine.inspector import Inspector
from patchcore_engine.published import read_published
from tests.engine import parts
from tests.engine.labelled_parts import CATEGORY, write_category


@pytest.fixture(scope="module")
def inspector(tmp_path_factory: pytest.TempPathFactory) -> Inspector:
    good = parts.write_good_parts(tmp_path_factory.mktemp("good"))
    return Inspector(parts.extractor(), fit(good, parts.extractor(), parts.settings()).bank)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_category(tmp_path)
    return tmp_path


@pytest.fixture
def evaluation(inspector: Inspector, data: Path) -> Evaluation:
    return evaluate(inspector, evaluation_set(data, CATEGORY))


def test_scores_and_figures_are_those_of_the_inspector(inspector: Inspector, data: Path) -> None:
    pictures = evaluation_set(data, CATEGORY).pictures
    found = evaluate(inspector, evaluation_set(data, CATEGORY))
    inspections = inspector.inspect([read(p.path) for p in pictures])
    assert [p.path for p in found.pictures] == [f"test/{p.defect}/{p.path.name}" for p in pictures]
    for result, inspection in zip(found.pictures, inspections, strict=True):
        assert inspection is not None
        assert (result.outcome, result.p_value) == (inspection.outcome, inspection.p_value)
        assert result.score == pytest.approx(inspection.score, rel=1e-5)
    truth = [not p.is_good for p in pictures]
    assert found.image_auroc == pytest.approx(roc_auc_score(truth, [p.score for p in found.pictures]))
    maps = np.stack([i.anomaly_map for i in inspections if i is not None])
    masks = np.zeros(maps.shape, bool)
    for mask, picture in zip(masks, pictures, strict=True):
        if picture.mask_path is not None:
            mask[:] = parts.GEOMETRY.prepare_mask(read(picture.mask_path))
    assert found.pixel_auroc == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-6)
    assert found.aupro is not None
    assert found.aupro > 0.8


def test_rates_are_counted_from_the_outcomes(evaluation: Evaluation) -> None:
    good = [p.outcome for p in evaluation.pictures if p.defect == "good"]
    defective = [p.outcome for p in evaluation.pictures if p.defect != "good"]
    assert (evaluation.false_rejects.count, evaluation.false_rejects.total) == (good.count("fail"), 8)
    assert evaluation.reviews.count == good.count("fail") + good.count("review")
    assert (evaluation.misses.count, evaluation.misses.total) == (defective.count("pass"), 6)


def test_the_json_has_the_figures_at_its_top_level_and_every_picture(evaluation: Evaluation, tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "out.json", evaluation.as_json())
    written = json.loads((tmp_path / "deep" / "out.json").read_text())
    for key in ("image_auroc", "pixel_auroc", "aupro", "f1_max", "false_reject_rate", "miss_rate"):
        assert 0 <= written[key] <= 1
    assert len(written["pictures"]) == 14
    assert written["false_rejects"]["stated_rate"] == 0.001
    assert written["thresholds"]["review"] <= written["thresholds"]["fail"]
    assert written["seconds"]["total"] > 0


def test_nothing_is_left_of_a_json_file_that_cannot_get_its_name(tmp_path: Path) -> None:
    (tmp_path / "out.json").mkdir()
    with pytest.raises(DataError, match=r"out\.json can't be written"):
        write_json(tmp_path / "out.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_the_worst_examples_come_worst_first_with_their_heat(evaluation: Evaluation) -> None:
    lowest = [e.result.score for e in evaluation.lowest_defective]
    highest = [e.result.score for e in evaluation.highest_good]
    assert lowest == sorted(evaluation.scores(good=False))[:6]
    assert highest == sorted(evaluation.scores(good=True), reverse=True)[:6]
    example = evaluation.lowest_defective[0]
    assert example.mask is not None
    assert example.levels[example.mask].mean() > example.levels[~example.mask].mean()


def test_a_set_without_masks_has_no_pixel_figures(inspector: Inspector, data: Path) -> None:
    shutil.rmtree(data / CATEGORY / "ground_truth")
    found = evaluate(inspector, evaluation_set(data, CATEGORY))
    assert found.image_auroc is not None
    assert (found.pixel_auroc, found.aupro, found.pro) == (None, None, None)


def test_a_set_of_good_parts_alone_still_has_a_false_reject_rate(inspector: Inspector, data: Path) -> None:
    shutil.rmtree(data / CATEGORY / "test" / "blot")
    found = evaluate(inspector, evaluation_set(data, CATEGORY))
    assert found.image_auroc is None
    assert found.misses.value is None
    assert found.false_rejects.total == 8


def test_an_unreadable_test_picture_is_named_or_skipped_and_counted(inspector: Inspector, data: Path) -> None:
    (data / CATEGORY / "test" / "blot" / "002.png").write_bytes(b"no picture")
    test_set = evaluation_set(data, CATEGORY)
    with pytest.raises(UndecodableImageError, match=r"blot/002\.png.*--skip-unreadable"):
        evaluate(inspector, test_set)
    found = evaluate(inspector, test_set, skip_unreadable=True)
    assert len(found.pictures) == 13
    assert len(found.skipped) == 1
    assert "002.png" in found.skipped[0]


def test_a_test_picture_too_narrow_is_named_or_skipped_and_counted(inspector: Inspector, data: Path) -> None:
    cv2.imwrite(str(data / CATEGORY / "test" / "good" / "sliver.png"), np.zeros((20_000, 1), np.uint8))
    test_set = evaluation_set(data, CATEGORY)
    with pytest.raises(DataError, match=r"good/sliver\.png: .*too narrow.*--skip-unreadable"):
        evaluate(inspector, test_set)
    found = evaluate(inspector, test_set, skip_unreadable=True)
    assert len(found.pictures) == 14
    assert len(found.skipped) == 1
    assert "sliver.png: " in found.skipped[0]


def test_a_set_of_unreadable_pictures_alone_is_refused(inspector: Inspector, data: Path) -> None:
    for picture in (data / CATEGORY / "test").glob("*/*.png"):
        picture.write_bytes(b"no picture")
    with pytest.raises(NoPicturesError, match="None of the 14 test pictures"):
        evaluate(inspector, evaluation_set(data, CATEGORY), skip_unreadable=True)


def test_means_leave_out_what_a_category_lacks(evaluation: Evaluation, inspector: Inspector, data: Path) -> None:
    shutil.rmtree(data / CATEGORY / "ground_truth")
    without_masks = evaluate(inspector, evaluation_set(data, CATEGORY))
    means = mean_figures([evaluation, without_masks])
    assert means["pixel_auroc"] == evaluation.pixel_auroc
    assert mean_figures([])["image_auroc"] is None


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "-"),
        (0.0, "0 %"),
        (0.001, "0.1 %"),
        (0.0234, "2.3 %"),
        (0.00056, "0.056 %"),
        (0.168, "16.8 %"),
        (1, "100 %"),
    ],
)
def test_shares_read_as_per_cent(share: float | None, text: str) -> None:
    assert percent(share).replace("\N{NO-BREAK SPACE}", " ") == text


def test_published_figures_come_with_their_sources() -> None:
    sources = {source.name: source for source in read_published()}
    assert sources["mindspore_ascend910"].title == "MindSpore ModelZoo PatchCore, Ascend 910"
    assert sources["mindspore_ascend910"].figures["bottle"].pixel_auroc == 0.9812
    assert sources["mindspore_ascend910"].figures["bottle"].aupro is None
    assert sources["official_im224_wr50_10pct"].figures["screw"].aupro == 0.985
    assert all(len(source.figures) == 15 for source in sources.values())


def test_a_comparison_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.csv can't be read"):
        read_published(tmp_path / "absent.csv")
    bad = tmp_path / "bad.csv"
    for text, message in (
        ("", "has no column category"),
        ("name,ours_image_auroc\na,1\n", "has no column category"),
        ("category,ours_speed\na,1\n", "ours_speed must end in"),
        ("category,ours_image_auroc\na,fast\n", "'fast' in column ours_image_auroc"),
    ):
        bad.write_text(text)
        with pytest.raises(DataError, match=message):
            read_published(bad)


@pytest.mark.real_data
def test_real_bottles_reach_the_published_figures(mvtec_bottle: Path) -> None:
    from patchcore_engine.backbones.factory import open_extractor

    geometry = geometry_for("efficientnet_lite0")
    extractor = open_extractor(backbone="efficientnet_lite0", geometry=geometry, batch_sizes=(1, 8))
    settings = FitSettings(recipe="bottle", geometry=geometry)
    bank = fit(training_pictures(mvtec_bottle, "bottle"), extractor, settings).bank
    found = evaluate(Inspector(extractor, bank), evaluation_set(mvtec_bottle, "bottle"))
    assert len(found.pictures) == 83
    assert found.image_auroc is not None
    assert found.image_auroc >= 0.995
    assert found.pixel_auroc is not None
    assert found.pixel_auroc >= 0.980
    assert found.aupro is not None
    assert found.aupro >= 0.94
    assert found.false_rejects.count <= 1
    assert found.misses.count == 0
