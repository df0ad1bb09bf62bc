"""The header of a heat map, as tests of its readers and senders need one."""

from daemon.messages import HeatmapHeader, Verdict


def heatmap_header(verdict: Verdict, height: int = 2, width: int = 2) -> HeatmapHeader:
    """The header of a PNG that covers the whole frame of a verdict with an offset."""
    assert verdict.offset is not None
    return HeatmapHeader(
        camera=verdict.camera,
        stream=verdict.stream,
        seq=verdict.seq,
        offset=verdict.offset,
        encoding="png",
        height=height,
        width=width,
        rect=(0.0, 0.0, float(width), float(height)),
        frame_height=height,
        frame_width=width,
    )
