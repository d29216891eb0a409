"""`kilocall bench loss`: quality against packet loss, kilocall beside x264 and VP8 over RTP, through the same bad link.

A link loses single packets at random, or everything for a while (outages that begin and end at random, 0.2 s long in
the mean); whoever sends more packets loses more of them. The same outages hit every method, in both directions. The
first picture, kilocall's source or video's key frame, gets through for everybody.

Video runs as calls do: each coded picture in RTP packets of its own, and a receiver that shows a picture only if it
has all packets of it and of all since the last key frame; otherwise what was shown stays, and it asks for a key frame,
which the sender makes as soon as it hears that. "Sent again": lost packets are asked for and come once more while
that is in time. "Goes on": the decoder shows what it makes of the pictures that it has.

kilocall with a video layer is sent as a call sends it on a link that loses: frames of motion twice, and of the layer
the small ones. A frame of it that is missing ends the layer until a key frame, asked for at most once a second.
"""
