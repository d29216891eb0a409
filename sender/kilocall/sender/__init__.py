"""Camera frames to packets: capture, face crop, motion, source picture."""
