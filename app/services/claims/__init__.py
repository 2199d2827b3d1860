"""Claims: filed by customers, compared with orphans, decided by staff, credited like any other sale."""
