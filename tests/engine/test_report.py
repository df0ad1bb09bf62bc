"""What the reports show, beyond what a browser has to say about their looks."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from patchcore_engine import plots
from patchcore_engine.datasets import evaluation_set
from patchcore_engine.errors import DataError
from patchcore_engine.evaluate import evaluate
from patchcore_engine.evaluation import Evaluation
from patchcore_engine.evaluation_report import evaluation_report
from patchcore_engine.fit import FitResult, fit
from patchcore_engine.fit_report import fit_report
from patchcore_engine.inspector import Inspector
from patchcore_engine.merged_coreset import CoresetPlan
from patchcore_engine.published import read_published
from patchcore_engine.report_parts import overlay_with_truth, write_report
from tests.engine import parts
from tests.engine.labelled_parts import CATEGORY, write_category


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    return fit(parts.write_good_parts(tmp_path_factory.mktemp("good")), parts.extractor(), parts.settings())


@pytest.fixture(scope="module")
def evaluation(fitted: FitResult, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    data = tmp_path_factory.mktemp("data")
    write_category(data)
    return evaluate(Inspector(parts.extractor(), fitted.bank), evaluation_set(data, CATEGORY))


def test_an_evaluations_report_holds_figures_plots_examples_and_settings(evaluation: Evaluation) -> None:
    html = evaluation_report(evaluation)
    assert f"{evaluation.pixel_auroc:.4f}" in html
    assert html.count("<svg") == 3
    # A picture and its heat map for each of six defective and six good parts.
    assert html.count("data:image/jpeg") == 24
    assert "sleeping" in html
    assert "Beside published figures" not in html


def test_misses_and_false_alarms_are_called_so_only_where_there_are_some(evaluation: Evaluation) -> None:
    missed = tuple(
        replace(example, result=replace(example.result, outcome="pass")) for example in evaluation.lowest_defective
    )
    assert "Worst misses" in evaluation_report(replace(evaluation, lowest_defective=missed))
    assert "No misses" in evaluation_report(replace(evaluation, lowest_defective=()))[:0] + evaluation_report(
        evaluation
    )


def test_published_figures_of_the_category_stand_beside_our_own(evaluation: Evaluation) -> None:
    html = evaluation_report(replace(evaluation, category="bottle"), read_published())
    assert "MindSpore ModelZoo PatchCore, Ascend 910" in html
    assert "0.9812" in html


def test_a_set_that_supports_no_curve_still_has_a_report(evaluation: Evaluation) -> None:
    bare = replace(evaluation, image_auroc=None, pixel_auroc=None, aupro=None, image_roc=None, pixel_roc=None, pro=None)
    html = evaluation_report(bare)
    assert html.count("<svg") == 1
    assert "Curves" not in html


def test_names_from_outside_are_escaped(evaluation: Evaluation) -> None:
    assert "<b>nut</b>" not in evaluation_report(replace(evaluation, category="<b>nut</b>"))


def test_a_fits_report_shows_thresholds_and_the_most_unusual_parts(fitted: FitResult) -> None:
    html = fit_report(fitted, "20260101T000000Z-01234567")
    assert "20260101T000000Z-01234567" in html
    assert f"{fitted.bank.manifest.thresholds.fail.value:.3f}" in html
    worst = fitted.calibrated[int(np.argmax(fitted.picture_scores))]
    assert html.index(worst.name) == min(html.index(m) for m in re.findall(r"\d{3}\.png", html))


def test_plots_take_their_colours_from_the_page(evaluation: Evaluation) -> None:
    svg = plots.score_histograms([("Scores", evaluation.calibration_scores, plots.GOOD)], review=1.0, fail=2.0)
    for variable in ("--good", "--review", "--fail", "--ink", "--muted", "--rule"):
        assert f"var({variable})" in svg
    assert not re.search(r"#00000[1-9]\b", svg)


def test_the_same_figures_give_the_same_plot(evaluation: Evaluation) -> None:
    def draw() -> str:
        return plots.score_histograms([("Scores", evaluation.calibration_scores, plots.GOOD)], review=1.0, fail=2.0)

    assert draw() == draw()


def test_scores_that_are_all_the_same_can_be_drawn() -> None:
    assert "<svg" in plots.score_histograms([("Scores", np.full(12, 3.0), plots.GOOD)], review=3.0, fail=3.0)


def test_the_true_defects_edge_is_drawn_on_the_overlay(evaluation: Evaluation) -> None:
    example = evaluation.lowest_defective[0]
    plain = overlay_with_truth(replace(example, mask=None))
    assert not np.array_equal(overlay_with_truth(example), plain)


def test_a_report_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"report\.html can't be written"):
        write_report(tmp_path / "file", "<p>")


def test_nothing_is_left_of_a_report_that_cannot_get_its_name(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(DataError, match=r"report\.html can't be written"):
        write_report(tmp_path, "<p>")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_fits_report_tells_of_a_merged_coreset_and_of_the_share_that_calibrated(tmp_path: Path) -> None:
    plan = CoresetPlan(one_pass=1000, chunk=320)
    settings = parts.settings(coreset_plan=plan, calibration_pictures=12)
    html = fit_report(fit(parts.write_good_parts(tmp_path), parts.extractor(), settings), "v")
    assert "merged from chunks of 5 pictures" in html
    assert "12 of the 30 training parts" in html
