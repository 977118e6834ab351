"""The size of a planted world's pictures, where both what draws them and what learns them find it."""

SIZE = 128  # pixels, of either side
