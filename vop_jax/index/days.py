"""Times of filters, as flags and addresses give them, in this machine's time zone."""

import datetime
import math
from collections.abc import Callable


def earliest(text: str) -> float:
    """The first moment that is meant by a date, or by a date and a time.

    Returns:
        POSIX seconds.

    Raises:
        ValueError: it is neither; the text says so.
    """
    return _moment_of(text, day_begins)


def latest(text: str) -> float:
    """The last such moment: of a date, the end of that day.

    Returns:
        POSIX seconds.

    Raises:
        ValueError: it is neither; the text says so.
    """
    return _moment_of(text, day_ends)


def _moment_of(text: str, of_day: Callable[[datetime.date], float]) -> float:
    try:
        time = datetime.datetime.fromisoformat(text)
        return of_day(time.date()) if _is_date(text) else time.timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(
            f"{text[:80]} is not a date; write it as 2026-01-31 or 2026-01-31T12:00"
        ) from None


def _is_date(text: str) -> bool:
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True


def day_begins(date: datetime.date) -> float:
    """The first moment of a day, POSIX seconds.

    Raises:
        ValueError: it has none, at the ends of the calendar.
    """
    return _midnight(date, 0)


def day_ends(date: datetime.date) -> float:
    """The last moment of a day, just before the next one, POSIX seconds.

    Raises:
        ValueError: it has none, at the ends of the calendar.
    """
    return math.nextafter(_midnight(date, 1), -math.inf)


def _midnight(date: datetime.date, days: int) -> float:
    begins = datetime.datetime.combine(date, datetime.time())
    try:
        # By the calendar, since a day need not have 24 hours.
        return (begins + datetime.timedelta(days=days)).timestamp()
    except (OverflowError, OSError) as error:
        raise ValueError(f"{date} is beyond the calendar ({error})") from None
