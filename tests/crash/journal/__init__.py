"""The campaign of crashes and failing disks against the journal."""
