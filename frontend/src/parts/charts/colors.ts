// Gives each series of a chart one of the four series colors defined in theme.css.

export function seriesColor(index: number): string {
  return `s${(index % 4) + 1}`;
}
