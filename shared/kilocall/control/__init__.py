"""What two parties tell each other over the control channel: a session, and what it exchanges."""
