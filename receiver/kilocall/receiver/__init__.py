"""The receiving side: packets to motion, motion and one source picture to video."""
