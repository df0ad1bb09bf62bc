import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from daemon.blanks import KINDS, PartKind
from daemon.defects import DEFECTS, Defect
from daemon.drawing import draw_part
from daemon.simulator import SimulatedCamera, encode_frame, write_data_set
from patchcore_engine.datasets import evaluation_set, training_pictures
from patchcore_engine.errors import NoPicturesError
from patchcore_engine.images import decode, encode_png

SMALL = (160, 200)


def generator(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_draws_the_same_part(kind: PartKind) -> None:
    first, again, other = (draw_part(kind, generator(seed), size=SMALL) for seed in (1, 1, 2))

    np.testing.assert_array_equal(first.pixels, again.pixels)
    assert (first.pixels != other.pixels).mean() > 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_part_has_an_empty_mask_and_a_bright_part_on_a_dark_belt(kind: PartKind) -> None:
    part = draw_part(kind, generator(3), size=SMALL)

    assert part.truth == "good"
    assert not part.mask.any()
    assert part.pixels.shape == (*SMALL, 3)
    corner, rim = part.pixels[:12, :12].mean(), part.pixels[80, 130:140].mean()
    assert rim > 2 * corner


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_changes_the_picture_where_its_mask_says(kind: PartKind, defect: Defect) -> None:
    part = draw_part(kind, generator(5), defect=defect, size=(320, 320))
    good = draw_part(kind, generator(5), size=(320, 320))

    assert part.truth == defect
    assert 0.0003 < part.mask.mean() < 0.05
    difference = np.abs(part.pixels.astype(float) - good.pixels.astype(float)).mean(axis=2)
    assert difference[part.mask].mean() > 2.5 * np.median(difference)


def test_mono_pictures_have_two_dimensions() -> None:
    assert draw_part("disc", generator(1), size=SMALL, color="mono").pixels.shape == SMALL


def test_a_raw_frame_states_its_shape_and_png_keeps_every_pixel() -> None:
    pixels = draw_part("plate", generator(1), size=SMALL).pixels

    raw, header = encode_frame(pixels, "raw")
    assert header == {"encoding": "raw", "shape": (160, 200, 3), "dtype": "u1", "color": "rgb"}
    np.testing.assert_array_equal(np.frombuffer(raw, np.uint8).reshape(pixels.shape), pixels)
    np.testing.assert_array_equal(decode(encode_frame(pixels, "png")[0]), pixels)
    jpeg = decode(encode_frame(pixels, "jpeg")[0])
    assert np.abs(jpeg.astype(int) - pixels).mean() < 6


def test_replay_names_each_part_by_its_path_and_sends_png_files_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    picture = encode_png(np.zeros((8, 8), np.uint8))
    for name in ("b.png", "a.png", "good/c.png"):
        (tmp_path / name).write_bytes(picture)
    (tmp_path / "notes.txt").write_text("no picture")

    frames = list(SimulatedCamera.replay(tmp_path).frames())

    assert [frame.part for frame in frames] == ["a.png", "b.png", "good/c.png"]
    assert all(frame.payload == picture and frame.header == {"encoding": "png"} for frame in frames)


def test_a_looping_camera_starts_over_and_stops_at_its_limit(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encode_png(np.zeros((8, 8), np.uint8)))

    frames = SimulatedCamera.replay(tmp_path, loop=True, encoding="raw").frames(5)

    assert [frame.part for frame in frames] == ["a.png", "b.png", "a.png", "b.png", "a.png"]


def test_a_shuffled_camera_sends_each_picture_once_in_an_order_of_its_seed(tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"{number}.png").write_bytes(encode_png(np.zeros((8, 8), np.uint8)))

    orders = [[f.part for f in SimulatedCamera.replay(tmp_path, shuffle=seed).frames()] for seed in (1, 1, 2)]

    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == [f"{number}.png" for number in range(9)]


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoPicturesError, match="holds no pictures"):
        SimulatedCamera.replay(tmp_path)
    with pytest.raises(NoPicturesError, match="is no folder"):
        SimulatedCamera.replay(tmp_path / "absent")


def test_replay_names_a_part_in_text_where_its_file_s_name_is_none(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"Geh\xe4use.png")).write_bytes(encode_png(np.zeros((8, 8), np.uint8)))
    assert [frame.part for frame in SimulatedCamera.replay(tmp_path).frames()] == ["Geh\\xe4use.png"]


def test_a_drawing_camera_tells_the_truth_of_each_part() -> None:
    camera = SimulatedCamera.drawing("disc", seed=4, defective_share=0.5, size=SMALL)

    frames = list(camera.frames(12))

    assert len({frame.part for frame in frames}) == 12
    assert 2 <= sum(frame.truth == "good" for frame in frames) <= 10
    assert [frame.payload for frame in camera.frames(2)] == [frame.payload for frame in frames[:2]]


def test_a_written_set_has_the_mvtec_layout_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    drawn: list[int] = []
    folders = [
        write_data_set(
            tmp_path / name, "plate", train_good=2, test_good=2, test_defective=5, size=SMALL, advance=drawn.append
        )
        for name in ("once", "twice")
    ]

    assert sum(drawn) == 2 * 9
    assert len(training_pictures(tmp_path / "once", "plate")) == 2
    evaluation = evaluation_set(tmp_path / "once", "plate")
    assert evaluation.has_masks
    assert sum(picture.is_good for picture in evaluation.pictures) == 2
    files = [sorted(path.relative_to(folder) for path in folder.rglob("*.png")) for folder in folders]
    assert files[0] == files[1]
    assert len(files[0]) == 2 + 2 + 5 + 5
    digests = [[hashlib.sha256((folder / name).read_bytes()).digest() for name in files[0]] for folder in folders]
    assert digests[0] == digests[1]
