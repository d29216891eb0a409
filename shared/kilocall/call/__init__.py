"""The call: meeting point, signalling and rate control; composes sender and receiver."""
