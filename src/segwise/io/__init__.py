"""Files into volumes and masks into files; LPS and RAS end here."""
