"""Which definitions are streams, and how each of them is streamed."""
