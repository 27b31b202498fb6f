"""What *is*, as against what xapi believes: powered machines, running domains, bytes on disks, installed systems."""
