"""The ground floor: paths, files, small pictures. Knows nothing of the study."""
