"""The restoration of one photo: networks opened once, faces restored, background enlarged."""
