"""Hospital systems: a PACS client, worklists, and the watcher that segments new images."""
