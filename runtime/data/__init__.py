"""Images, boxes and what happens to them before a detector sees them."""
