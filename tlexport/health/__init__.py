"""The health check of DATA: near-duplicates, likely wrong labels, class balance, sizes, unreadable files, outliers."""
