"""LMRMQ, the mobile app: its shell, its service worker and its manifest; the rest is static/mobile/."""
