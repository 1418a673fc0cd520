"""From slices to volumes, from windows to wholes: a lift is the Learned Segmenter of a net."""
