"""Bits against quality: kilocall beside the classic codecs on the same pixels, with a report for sceptics."""
