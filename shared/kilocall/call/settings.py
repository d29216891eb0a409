"""What a call is started with: checked once, before anything is opened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from kilocall.call.signalling import websocket_url
from kilocall.model.compact.speaker_adapter import read_speaker_adapter
from kilocall.model.family import DEFAULT_FAMILY, OWN_WEIGHTS, weights_folder
from kilocall.model.family_loader import FamilyChoice
from kilocall.model.reference_pictures import LARGEST_GALLERY_KB, MOST_PICTURES
from kilocall.proto.errors import BadInput
from kilocall.runtime.files import user_cache_folder
from kilocall.runtime.peer_settings import IceServer
from kilocall.sender.camera import BROWSER
from kilocall.sender.layer_encoder import DEFAULT_LAYER_KBPS, check_layer_kbps

__all__ = ["CallSettings", "default_cache", "settings_from"]


def default_cache() -> Path:
    """Where what the other side sent is kept between calls: KILOCALL_CACHE, or the user's cache folder."""
    named = os.environ.get("KILOCALL_CACHE")
    return Path(named) if named else user_cache_folder()


class CallSettings(BaseModel):
    """One party's side of a call."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    room: Annotated[str, Field(min_length=1, max_length=400)]
    """Name of the room, or the whole link that the other side sent."""
    server: str = "http://127.0.0.1:8700"
    camera: str = "0"
    """Number or path of a device, a clip that is played in a loop, or "browser"."""
    source: Path | None = None
    """Source picture; None: the best of the camera's first pictures."""
    size: Literal[256, 512] = 256
    """Side of the own source picture: 512 shows the other side more detail and takes 14 KB instead of 6."""
    microphone: Path | None = None
    """Sound file that is played in a loop as the microphone, for a call without a page."""
    headless: bool = False
    port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Of the page; None: 8710, or a free one if that is taken."""
    seconds: Annotated[float, Field(gt=0, le=86_400)] | None = None
    """Ends the call after so long; None: when somebody hangs up."""
    report: Path | None = None
    saver: bool = False
    fps: Annotated[float, Field(ge=1, le=60)] = 25.0
    """Most frames a second that are looked at and sent."""
    family: str = DEFAULT_FAMILY
    weights: Path | None = None
    """File or folder with the weights of a family that is not in the package."""
    codebook: Path | None = None
    """What `kilocall fit` wrote; the same on both sides."""
    personal: Path | None = None
    """What `kilocall finetune` wrote, of this side's speaker: offered to the other side."""
    gallery: Annotated[int, Field(ge=0, le=MOST_PICTURES)] | None = None
    """Most pictures of this side's speaker that the other side is sent in the background, the source picture included;
    None: 8, or the source picture alone with `saver` and for the families that the user brings, whose generators are
    too slow to be tried in the background and are not held in memory twice."""
    gallery_kb: Annotated[float, Field(ge=1, le=LARGEST_GALLERY_KB)] = 40.0
    """KB of all of them together."""
    layer: float | None = None
    """Kilobits a second for a thin layer of real video under the motion; None: 3, or none with `saver`."""
    engine: str = "auto"
    threads: Annotated[int, Field(ge=0, le=64)] = 1
    """Of each of the two model threads: two directions share the cores."""
    virtual_camera: bool = False
    recordings: Path = Path()
    """Folder for what the record button writes."""
    cache: Path | None = Field(default_factory=default_cache)
    """Folder for the other sides' source pictures; None: forgotten with the call."""
    loopback: Literal["exclude", "include", "only"] = "include"
    """Whether 127.0.0.1 is offered, for two parties on one machine."""
    ice_servers: tuple[IceServer, ...] = ()
    """As IceServer, or as text: stun:HOST, or turn:HOST,USER,PASSWORD."""
    relay_only: bool = False
    """Only through a TURN server, of `ice_servers` or the signalling server's; without one the call does not begin."""
    keep_pictures: Path | None = None
    """Folder for some of the rendered pictures and the crops that were sent, for measuring."""

    @field_validator("ice_servers", mode="before")
    @classmethod
    def _read_servers(cls, value: object) -> object:
        if not isinstance(value, list | tuple):
            return value
        return tuple(IceServer(*one.split(",", 2)) if isinstance(one, str) else one for one in value)

    @field_validator("layer")
    @classmethod
    def _check_layer(cls, value: float | None) -> float | None:
        return value if value is None else check_layer_kbps(value)

    @property
    def models(self) -> FamilyChoice:
        return FamilyChoice(self.family, self.weights, self.codebook)

    @property
    def pictures(self) -> int:
        """Most pictures of this side's speaker; 0 and 1: the source picture alone."""
        default = 0 if self.saver or self.family in OWN_WEIGHTS else MOST_PICTURES
        return default if self.gallery is None else self.gallery

    @property
    def layer_kbps(self) -> float:
        """Of the video layer; 0: none."""
        return (0.0 if self.saver else DEFAULT_LAYER_KBPS) if self.layer is None else self.layer

    @property
    def profile(self) -> Literal["default", "saver"]:
        return "saver" if self.saver else "default"


def settings_from(**values: object) -> CallSettings:
    """CallSettings, or BadInput that names the setting, its value and what is allowed."""
    try:
        settings = CallSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "settings"
        raise BadInput(f"{where} is {str(first.get('input'))[:80]!r}: {first['msg']}") from None
    for name in ("source", "microphone"):
        path = getattr(settings, name)
        if path is not None and not path.is_file():
            raise BadInput(f"{name} {path}: no such file")
    websocket_url(settings.server)
    for server in settings.ice_servers:
        server.check()
    if settings.headless and settings.camera == BROWSER:
        raise BadInput("camera is 'browser': a call without a page has none; give a number or a clip")
    for name in ("weights", "codebook"):
        path = getattr(settings, name)
        if path is not None and not path.exists():
            raise BadInput(f"{name} {path}: no such file")
    for name in ("report", "keep_pictures"):
        path = getattr(settings, name)
        if path is not None and not path.absolute().parent.is_dir():
            raise BadInput(f"{name} {path}: the folder {path.absolute().parent} does not exist")
    if settings.personal is not None:
        if settings.family != DEFAULT_FAMILY:
            raise BadInput(f"personal {settings.personal}: is for the family {DEFAULT_FAMILY}, not {settings.family}")
        read_speaker_adapter(settings.personal).check(settings.weights or weights_folder())
    if not settings.recordings.is_dir():
        raise BadInput(f"recordings {settings.recordings}: no such folder")
    return settings
