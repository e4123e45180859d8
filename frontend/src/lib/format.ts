// Formats numbers, sizes, durations and dates for display. An unknown value is shown as a dash, never as zero.

export const UNKNOWN = "–";
/** The name shown for requests without a tag and without a key. */
export const UNKNOWN_APP = "Unknown app";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenth = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const oneDecimal = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** Smaller numbers are shown in full, with thousands separators, as in the sentences of the coordinator. */
const COMPACT_FROM = 10_000_000;

type Maybe = number | null | undefined;
const known = (value: Maybe): value is number => value !== null && value !== undefined && Number.isFinite(value);

export function count(value: Maybe): string {
  if (!known(value)) return UNKNOWN;
  return Math.abs(value) >= COMPACT_FROM ? short.format(value) : whole.format(value);
}

export function decimal(value: Maybe): string {
  if (!known(value)) return UNKNOWN;
  return Math.abs(value) >= 100 ? whole.format(value) : tenth.format(value);
}

/** 6100000000 -> "6.1 GB" */
export function bytes(value: Maybe): string {
  if (!known(value)) return UNKNOWN;
  const units = ["B", "kB", "MB", "GB", "TB"];
  let size = value;
  let unit = 0;
  while (Math.abs(size) >= 1000 && unit < units.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${size >= 100 || unit < 2 ? whole.format(size) : tenth.format(size)} ${units[unit]}`;
}

/** 310.2 -> "310 ms", 2210 -> "2.2 s", 90000 -> "1 min 30 s" */
export function ms(value: Maybe): string {
  if (!known(value)) return UNKNOWN;
  if (value > 0 && value < 1) return "<1 ms";
  return value < 999.5 ? `${whole.format(value)} ms` : seconds(value / 1000);
}

export function seconds(value: Maybe): string {
  if (!known(value)) return UNKNOWN;
  const size = Math.abs(value);
  if (size < 0.9995) return size === 0 ? "0 s" : `${whole.format(value * 1000)} ms`;
  if (size < 9.95) return `${oneDecimal.format(value)} s`;
  if (size < 60) return `${whole.format(value)} s`;
  if (size < 3600) return twoUnits(size, 60, "min", 1, "s");
  if (size < 86400) return twoUnits(size, 3600, "h", 60, "min");
  return `${tenth.format(size / 86400)} days`;
}

/** "1 min 30 s". From ten large units on, the small unit is left out. */
function twoUnits(size: number, largeS: number, large: string, smallS: number, small: string): string {
  const rest = Math.floor((size % largeS) / smallS);
  return `${Math.floor(size / largeS)} ${large}${rest >= 1 && size < 10 * largeS ? ` ${rest} ${small}` : ""}`;
}

/** A duration in one unit: 299 -> "5 min" */
export function shortDuration(value: Maybe): string {
  if (!known(value)) return UNKNOWN;
  if (value < 60) return `${whole.format(value)} s`;
  if (value < 5400) return `${whole.format(value / 60)} min`;
  if (value < 129_600) return `${whole.format(value / 3600)} h`;
  return `${whole.format(value / 86400)} days`;
}

export function percent(share: Maybe): string {
  if (!known(share)) return UNKNOWN;
  return `${share > 0 && share < 0.1 ? tenth.format(share * 100) : whole.format(share * 100)} %`;
}

export function ago(at: Maybe, now: number): string {
  if (!known(at) || at <= 0) return "never";
  const age = now - at;
  if (age < 5) return "now";
  return `${shortDuration(age)} ago`;
}

export function date(at: number): string {
  return new Date(at * 1000).toLocaleString([], { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
}

export function plural(n: number, one: string, many = `${one}s`): string {
  return `${count(n)} ${n === 1 ? one : many}`;
}
