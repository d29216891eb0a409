"""The library as a user calls it: whole files, frame by frame, and the same bytes both ways."""

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from kilocall import api
from kilocall.model import landmarks as lm
from kilocall.model.family import Family
from kilocall.proto.errors import BadInput, NoFace, WrongFamily
from kilocall.proto.stream_file import StreamReader
from kilocall.receiver.render import View
from kilocall.receiver.video_file import VideoFile
from kilocall.sample import NAMES, sample_stream
from kilocall.sample.perform import portrait
from kilocall.sender.capture import open_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def clip(astronaut_clip: Path) -> Path:
    return astronaut_clip


@pytest.fixture(scope="module")
def stream(clip: Path, folder: Path) -> Path:
    report = api.encode(clip, folder / "a.kcs")
    assert report.frames == 200
    return folder / "a.kcs"


@pytest.fixture(scope="module")
def family() -> Family:
    return api.open_family()


def pictures(video: Path) -> list[np.ndarray]:
    return [frame.rgb for frame in open_clip(video)]


def crops(family: Family, count: int) -> list[np.ndarray]:
    player = api.StreamPlayer(sample_stream("astronaut"), family=family)
    return [frame.rgb for frame, _ in zip(player.frames(), range(count), strict=False)]


def correlation(a: list[float], b: list[float]) -> float:
    return float(np.corrcoef(np.array(a), np.array(b))[0, 1])


def test_a_clip_becomes_a_few_bits_a_frame_and_comes_back(stream: Path, folder: Path, clip: Path) -> None:
    facts = api.info(stream)
    assert facts.frames == 200
    assert facts.installed_weights_match
    assert facts.source_bytes <= 6144
    assert facts.payload_bits_mean < 60
    assert facts.file_bytes == stream.stat().st_size
    report = api.decode(stream, folder / "out.mp4")
    assert (report.frames, report.truncated, report.dropped_packets) == (200, None, 0)
    shown = pictures(folder / "out.mp4")
    assert len(shown) == 200
    assert shown[0].shape == (256, 256, 3)


def test_the_decoded_face_moves_as_the_clip_does(stream: Path, family: Family) -> None:
    original = crops(family, 200)
    decoded = [frame.rgb for frame in api.StreamPlayer(stream, family=family).frames()]
    # The second crop lies elsewhere in its frame, so movements are compared, not places.
    yaws = [[family.source(picture).pose.rotation[0] for picture in film[::8]] for film in (original, decoded)]
    assert correlation(*yaws) > 0.95
    lids = [
        [float(lm.mean_opening(family.track(picture).points, lm.LID_PAIRS)) for picture in film[20:110:2]]
        for film in (original, decoded)
    ]
    assert correlation(*lids) > 0.6


def test_streaming_gives_the_same_bytes_whatever_the_packet_is_cut_from(family: Family) -> None:
    frames = crops(family, 25)

    def run() -> list[bytes]:
        encoder = api.Encoder(frames[0], family=family)
        packets = [encoder.push(crop, i * 40_000) for i, crop in enumerate(frames)]
        return [bytes(p) for p in [*packets, encoder.flush()] if p is not None]

    first = run()
    assert first == run()
    assert len(first) == 9  # 25 frames, three in each


def test_streaming_decoder_gives_what_the_file_decoder_gives(stream: Path, family: Family) -> None:
    player = api.StreamPlayer(stream, family=family)
    whole = [frame for frame, _ in zip(player.frames(), range(9), strict=False)]
    decoder = api.Decoder(player.source_picture, family=family)
    packets = [record.packet for record in StreamReader(stream).packets()][:3]
    live = [frame for packet in packets for frame in decoder.push(bytes(packet))]
    assert len(live) == 9
    for a, b in zip(whole, live, strict=True):
        assert (a.rgb == b.rgb).all()


def test_at_rest_the_output_is_the_source_picture(family: Family) -> None:
    source = family.source(crops(family, 1)[0])
    made = family.renderer(source).render(source.pose)
    assert np.abs(made.astype(int) - source.picture).max() <= 1


def test_head_turned_at_the_receiver_is_seen_turned_to_that_side(stream: Path, family: Family) -> None:
    player = api.StreamPlayer(stream, family=family)
    seen = []
    for yaw in (-20, 0, 20):
        player.renderer.view = View(yaw=yaw)
        seen.append(np.rad2deg(family.source(next(player.frames()).rgb).pose.rotation[0]))
    left, straight, right = seen
    assert -25 < left - straight < -10
    assert 10 < right - straight < 25


def test_a_large_source_picture_keeps_its_detail(folder: Path, family: Family) -> None:
    # The portrait enlarged: what is fine in it at 512 is grain, added here so that there is some.
    grain = np.random.default_rng(0).normal(0, 6, (768, 768, 1))
    large = np.clip(np.asarray(cv2.resize(portrait(), (768, 768)), np.float32) + grain, 0, 255).astype(np.uint8)
    with VideoFile(folder / "large.mp4", fps=Fraction(25), size=768) as video:
        for step in range(12):
            video.write(np.roll(large, step, 1), step * 40_000)
    report = api.encode(folder / "large.mp4", folder / "large.kcs", size=512)
    assert not report.warnings
    assert 6144 < report.source_bytes <= 14 * 1024
    player = api.StreamPlayer(folder / "large.kcs", family=family)
    source = player.stream_source
    assert source.detail is not None
    assert player.size == 512
    assert np.abs(player.renderer.render(source.pose).astype(int) - source.detail).max() <= 2
    fine = [frame.rgb for frame in player.frames()][-1]
    soft = [frame.rgb for frame in api.StreamPlayer(folder / "large.kcs", largest=256, family=family).frames()][-1]
    assert soft.shape == (256, 256, 3)
    assert fine.shape == (512, 512, 3)
    # The same picture, but sharper than enlarging makes it.
    enlarged = np.asarray(cv2.resize(soft, (512, 512), interpolation=cv2.INTER_CUBIC), np.uint8)
    assert np.abs(enlarged.astype(int) - fine).mean() < 6
    assert cv2.Laplacian(fine, cv2.CV_64F).var() > 1.3 * cv2.Laplacian(enlarged, cv2.CV_64F).var()


def test_a_small_face_keeps_its_256_pixels_with_a_warning(folder: Path) -> None:
    clip = folder / "small.mp4"
    with VideoFile(clip, fps=Fraction(25), size=300) as video:
        for step in range(4):
            video.write(portrait(), step * 40_000)
    report = api.encode(clip, folder / "small.kcs", size=512)
    assert report.source_bytes <= 6144
    assert any("stays 256 wide" in warning for warning in report.warnings)
    with pytest.raises(BadInput, match="size is 300; allowed are 256 and 512"):
        api.encode(clip, folder / "small.kcs", size=300)


def test_another_picture_is_moved_relatively(stream: Path, folder: Path, family: Family) -> None:
    other = folder / "other.png"
    picture = next(api.StreamPlayer(sample_stream("drawing"), family=family).frames()).rgb
    from PIL import Image

    Image.fromarray(picture).save(other)
    player = api.StreamPlayer(stream, source=other, family=family)
    assert player.relative
    shown = [frame.rgb for frame, _ in zip(player.frames(), range(61), strict=False)]
    first, turned = shown[0], shown[60]
    # It is the drawing that is seen, and it moves.
    assert np.abs(first.astype(int) - picture).mean() < np.abs(first.astype(int) - player.stream_source.picture).mean()
    assert np.abs(first.astype(int) - turned).mean() > 2


def test_seeking_gives_the_same_motion_as_playing(stream: Path, family: Family) -> None:
    player = api.StreamPlayer(stream, family=family)
    played = {m.time_us: m.motion.vector for m in player.motions()}
    for from_us in (0, 2_500_000, 7_900_000):
        sought = {m.time_us: m.motion.vector for m in player.motions(from_us)}
        assert max(sought) == max(played)
        assert min(sought) <= from_us
        assert all((played[time_us] == vector).all() for time_us, vector in sought.items())


def test_stream_cut_anywhere_plays_up_to_the_cut(stream: Path, folder: Path, family: Family) -> None:
    data = stream.read_bytes()
    reader = StreamReader(stream)
    first = reader.index[0].offset
    counts = []
    for share in (0.2, 0.5, 0.8, 0.99):
        part = folder / "part.kcs"
        part.write_bytes(data[: first + int((len(data) - first) * share)])
        counts.append(sum(1 for _ in api.StreamPlayer(part, family=family).motions()))
        assert api.info(part).truncated
    assert counts == sorted(counts)
    assert 0 < counts[0] < counts[-1] <= 200


@pytest.mark.slow
def test_lower_quality_takes_fewer_bits(clip: Path, folder: Path) -> None:
    bits = [
        api.encode(clip, folder / f"q{quality}.kcs", quality=quality, fps=12.5).payload_bits_per_frame
        for quality in (10, 90)
    ]
    assert bits[0] < 0.6 * bits[1]


@pytest.mark.parametrize(("layer", "quality", "level"), [(1.5, 50, 4), (3, 75, 6)])
def test_motion_is_coded_finely_beside_a_rich_layer(
    clip: Path, folder: Path, layer: float, quality: float, level: int
) -> None:
    stream = folder / f"layer{layer}.kcs"
    api.encode(clip, stream, layer=layer, fps=12.5)
    assert api.info(stream).quality == quality
    assert {record.packet.level for record in StreamReader(stream).packets()} == {level}


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "is empty"), (b"\x00" * 40, "kilocall stream begins with"), (b"\x89KCS\r\n\x1a\n\x00\x63", "version 99")],
)
def test_foreign_stream_is_refused_with_what_was_found(folder: Path, data: bytes, message: str) -> None:
    path = folder / "foreign.kcs"
    path.write_bytes(data)
    with pytest.raises(BadInput, match=message):
        api.decode(path, folder / "never.mp4")
    assert not (folder / "never.mp4").exists()


def test_stream_of_other_weights_is_refused(stream: Path, folder: Path, family: Family) -> None:
    hash_ = bytes.fromhex(family.weights_hash)
    data = stream.read_bytes()
    at = data.index(hash_)
    # The header's CRC must hold, so the file is written anew with another hash.
    from dataclasses import replace

    from kilocall.proto.stream_file import StreamWriter

    reader = StreamReader(stream)
    assert at > 0
    with StreamWriter(folder / "old.kcs", replace(reader.header, weights_hash="ab" * 32)) as writer:
        picture = reader.source_picture()
        assert picture
        writer.add_picture(picture)
    with pytest.raises(WrongFamily, match="abababababab"):
        api.decode(folder / "old.kcs", folder / "never.mp4")
    assert api.info(folder / "old.kcs").installed_weights_match is False


def test_picture_without_a_face_leaves_no_file(clip: Path, folder: Path) -> None:
    from PIL import Image

    blank = folder / "blank.png"
    Image.fromarray(np.full((300, 300, 3), 90, np.uint8)).save(blank)
    with pytest.raises(NoFace, match=r"blank\.png"):
        api.encode(clip, folder / "never.kcs", source=blank)
    assert not list(folder.glob("*never*"))


def test_unwritable_outputs_are_refused_by_name(stream: Path, clip: Path, folder: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        api.encode(clip, folder / "no" / "a.kcs")
    with pytest.raises(BadInput, match="is a folder"):
        api.encode(clip, folder)
    with pytest.raises(BadInput, match=r"\.gif"):
        api.decode(stream, folder / "a.gif")
    with pytest.raises(BadInput, match="size is 63"):
        api.decode(stream, folder / "a.mp4", size=63)
    with pytest.raises(BadInput, match="yaw is 100"):
        api.decode(stream, folder / "a.mp4", yaw=100)


def test_decoder_counts_what_it_cannot_use(family: Family) -> None:
    decoder = api.Decoder(crops(family, 1)[0], family=family)
    assert decoder.push(b"nonsense") == []
    assert decoder.packets.dropped == 1
    assert decoder.packets.last_problem


@pytest.mark.parametrize("name", NAMES)
def test_every_sample_belongs_to_the_installed_weights(name: str) -> None:
    assert api.info(sample_stream(name)).installed_weights_match


def test_unknown_sample_and_family_are_refused_by_name() -> None:
    with pytest.raises(BadInput, match="nobody"):
        sample_stream("nobody")
    with pytest.raises(BadInput, match="'grand-512' is not installed"):
        api.open_family("grand-512")
