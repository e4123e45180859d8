// The results of `herd certify`, as GET /fleet/conformance lists them.

export type Certified = {
  model: string;
  node_id: string;
  version: string;
  at: number;
  is_valid: boolean;
  badges: string[];
  failing_step: { name: string; evidence: string } | null;
};

/** The results of one model; the API writes no name without a tag. */
export function resultsOf(model: string, results: Certified[]): Certified[] {
  return results.filter((one) => one.model === model || one.model === `${model}:latest`);
}

/** What the model works with on at least one node. */
export function badgesOf(model: string, results: Certified[]): string[] {
  return [...new Set(resultsOf(model, results).flatMap((one) => one.badges))];
}
