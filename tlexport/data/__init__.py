"""Reading images: folders and tables, splits, decoding, the demo's digits."""
