"""One page of figures from the pages of several nodes."""

from __future__ import annotations

from deploy.ray.metrics import joined

PAGE = """\
# HELP ray_handler_items_total handler items
# TYPE ray_handler_items_total counter
ray_handler_items_total{{Component="core_worker",ModelName="m",otel_scope_name="x.ray_y",WorkerId="{0}"}} {1}
# HELP ray_serve_num_http_requests_total many
# TYPE ray_serve_num_http_requests_total counter
ray_serve_num_http_requests_total{{application="ray_handler_x"}} 4.0
# HELP ray_handler_fallback handler fallback
# TYPE ray_handler_fallback gauge
ray_handler_fallback{{ModelName="m"}} 0.0
"""  # noqa: E501


def test_names_are_those_of_torchserves_page() -> None:
    page = joined([PAGE.format("a", "2.0"), PAGE.format("b", "3.0"), ""]).decode()
    assert page == (
        "# HELP handler_items handler items\n# TYPE handler_items counter\n"
        'handler_items{ModelName="m",WorkerId="a"} 2.0\n'
        'handler_items{ModelName="m",WorkerId="b"} 3.0\n'
        "# HELP handler_fallback handler fallback\n# TYPE handler_fallback gauge\n"
        'handler_fallback{ModelName="m"} 0.0\nhandler_fallback{ModelName="m"} 0.0\n'
    )
