// Names the scoring signals, and the setting with the maximum points of each.

export const SIGNALS: Record<string, { label: string; setting: string }> = {
  thermal: { label: "model loaded", setting: "FLEET_SCORE_MODEL_HOT" },
  memory_fit: { label: "free memory", setting: "FLEET_SCORE_MEMORY_FIT_MAX" },
  queue_depth: { label: "queue", setting: "FLEET_SCORE_QUEUE_DEPTH_MAX_PENALTY" },
  wait_time: { label: "expected wait", setting: "FLEET_SCORE_WAIT_TIME_MAX_PENALTY" },
  role_affinity: { label: "machine size", setting: "FLEET_SCORE_ROLE_AFFINITY_MAX" },
  availability_trend: { label: "idle trend", setting: "FLEET_SCORE_AVAILABILITY_TREND_MAX" },
  context_fit: { label: "context window", setting: "FLEET_SCORE_CONTEXT_FIT_MAX" },
};
