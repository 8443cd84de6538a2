"""Every kind of diagnostic, declared once; `detc explain CODE` prints its explanation. One file a subject."""
