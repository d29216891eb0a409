"""The call: signalling server, signalling and rate control; composes sender and receiver."""

ROOM_VARIABLE = "KILOCALL_ROOM"
"""Environment variable with the room: other users of a machine see a program's arguments, but not its environment."""
