"""The few touches of the Windows registry that native messaging needs."""


def write(key: str, value: str) -> None:
    """Set a key's default value below HKEY_CURRENT_USER, and make the key where it lacks."""
    import winreg

    with winreg.CreateKey(winreg.HKEY_CURRENT_USER, key) as opened:
        winreg.SetValueEx(opened, "", 0, winreg.REG_SZ, value)


def read(key: str) -> str | None:
    """A key's default value; None when there is no such key."""
    import winreg

    try:
        with winreg.OpenKey(winreg.HKEY_CURRENT_USER, key) as opened:
            return str(winreg.QueryValueEx(opened, "")[0])
    except FileNotFoundError:
        return None


def remove(key: str) -> None:
    """Remove a key that may be gone already."""
    import contextlib
    import winreg

    with contextlib.suppress(FileNotFoundError):
        winreg.DeleteKey(winreg.HKEY_CURRENT_USER, key)
