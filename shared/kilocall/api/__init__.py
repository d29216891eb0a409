"""The library behind the command line: clips to streams, streams to clips, and both frame by frame.

encode("clip.mp4", "clip.kcs")              decode("clip.kcs", "out.mp4", yaw=10)
encoder = Encoder(picture); packet = encoder.push(crop, capture_us)
decoder = Decoder(encoder.source_picture); frames = decoder.push(packet)
"""

from kilocall.api.contents import StreamInfo, WireRate, info
from kilocall.api.decoding import DecodeReport, decode
from kilocall.api.encoding import EncodeReport, encode
from kilocall.api.families import face_of_picture, open_family
from kilocall.api.live import GALLERY_KB, DecodedFrame, Decoder, Encoder
from kilocall.api.player import StreamPlayer
from kilocall.api.web_page import PageReport, export_page

__all__ = [
    "GALLERY_KB",
    "DecodeReport",
    "DecodedFrame",
    "Decoder",
    "EncodeReport",
    "Encoder",
    "PageReport",
    "StreamInfo",
    "StreamPlayer",
    "WireRate",
    "decode",
    "encode",
    "export_page",
    "face_of_picture",
    "info",
    "open_family",
]
