"""The first and the last moment of a day, in this machine's time zone."""

import datetime


def day_begins(date: datetime.date) -> float:
    """The first moment of a day, POSIX seconds.

    Raises:
        ValueError: it has none, at the ends of the calendar.
    """
    return _midnight(date, 0)


def day_ends(date: datetime.date) -> float:
    """The moment at which a day ends, POSIX seconds.

    Raises:
        ValueError: it has none, at the ends of the calendar.
    """
    return _midnight(date, 1)


def _midnight(date: datetime.date, days: int) -> float:
    begins = datetime.datetime.combine(date, datetime.time())
    try:
        # By the calendar, since a day need not have 24 hours.
        return (begins + datetime.timedelta(days=days)).timestamp()
    except (OverflowError, OSError) as error:
        raise ValueError(f"{date} is beyond the calendar ({error})") from None
